// libnvrtc.so.13 by g++. A "CUBIN" is MAGIC, its length (8 bytes), then a shared library.
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <regex>
#include <sstream>
#include <string>

static const std::string MAGIC = "RSLEMU01";

struct Program {
    std::string source, log, image;
};

static std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

static int give(const std::string& text, char* to) {
    text.copy(to, text.size());
    to[text.size()] = 0;
    return 0;
}

extern "C" {

const char* nvrtcGetErrorString(int code) { return code ? "NVRTC_ERROR_COMPILATION (emulated)" : "NVRTC_SUCCESS"; }

int nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 0;
    return 0;
}

int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char**, const char**) {
    *program = new Program{source, "", ""};
    return 0;
}

int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return 0;
}

int nvrtcCompileProgram(Program* program, int, const char**) {
    const char* parent = getenv("TMPDIR");
    std::string dir = std::string(parent ? parent : "/tmp") + "/rissole-emulator-XXXXXX";
    if (!mkdtemp(dir.data())) return 6;
    std::string in = dir + "/kernels.cpp", out = dir + "/kernels.so", log = dir + "/log";
    {
        std::ofstream file(in);
        file << "#include \"" EMULATOR_DIR "/device.h\"\n" << program->source;
        std::regex kernel("extern \"C\" __global__ void (\\w+)\\(");
        auto end = std::sregex_iterator();
        for (auto it = std::sregex_iterator(program->source.begin(), program->source.end(), kernel); it != end; ++it) {
            std::string name = (*it)[1];
            file << "\nextern \"C\" void emulator_call_" << name << "(void** a) { emulator::call(" << name << ", a); }"
                 << "\nextern \"C\" const unsigned* emulator_sizes_" << name << "() { return emulator::sizes(" << name
                 << "); }";
        }
        file << "\n";
    }
    std::string command = "g++ -std=c++17 -O2 -g0 -U_FORTIFY_SOURCE -fno-strict-aliasing -Wall -Wno-unused-function "
                          "-shared -fPIC -o " + out + " " + in + " 2> " + log;
    int failed = system(command.c_str());
    program->log = read_file(log);
    std::string library = read_file(out);
    for (const auto& path : {in, out, log}) unlink(path.c_str());
    rmdir(dir.c_str());
    if (failed) return 6;
    uint64_t length = library.size();
    program->image = MAGIC + std::string((const char*)&length, 8) + library;
    return 0;
}

int nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, 0; }
int nvrtcGetProgramLog(Program* program, char* log) { return give(program->log, log); }
int nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->image.size(), 0; }
int nvrtcGetCUBIN(Program* program, char* image) {
    program->image.copy(image, program->image.size());
    return 0;
}

}  // extern "C"
