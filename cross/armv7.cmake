# A C program for 32-bit ARM by Debian's cross compiler, its tests run by QEMU:
#   cmake -B build -DCMAKE_TOOLCHAIN_FILE=cross/armv7.cmake -DCMAKE_PREFIX_PATH=PREFIX
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
set(CMAKE_CXX_COMPILER arm-linux-gnueabihf-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-arm -cpu cortex-a15 -L /usr/arm-linux-gnueabihf)
