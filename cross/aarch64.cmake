# A C program for 64-bit ARM by Debian's cross compiler, its tests run by QEMU:
#   cmake -B build -DCMAKE_TOOLCHAIN_FILE=cross/aarch64.cmake -DCMAKE_PREFIX_PATH=PREFIX
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu)
