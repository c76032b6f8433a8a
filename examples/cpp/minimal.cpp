// Draws one picture with progress and writes it as a PPM: minimal MODEL_DIR OUT.ppm [SEED]
#include <rissole.hpp>

#include <fstream>
#include <iostream>

int main(int argc, char **argv) {
    if (argc < 3) {
        std::cerr << "usage: " << argv[0] << " MODEL_DIR OUT.ppm [SEED]\n";
        return 2;
    }
    try {
        rissole::Model model(argv[1]);
        rissole::Generator generator(model);
        generator.on_progress([](const rissole_progress &progress) {
            std::cerr << '\r' << progress.done << " of " << progress.total;
            return true;
        });
        rissole::Picture picture = generator.draw(argc > 3 ? std::stoull(argv[3]) : 1);
        std::cerr << "\rdrawn by " << model.name() << " from query " << picture.report.query_id << '\n';
        std::ofstream file(argv[2], std::ios::binary);
        file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
        file.write(reinterpret_cast<const char *>(picture.pixels.data()), std::streamsize(picture.pixels.size()));
        file.close();
        if (!file) {
            std::cerr << argv[2] << ": cannot be written\n";
            return 1;
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
    return 0;
}
