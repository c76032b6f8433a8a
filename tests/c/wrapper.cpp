// rissole.hpp where it is not straightforward: wrapper MODEL_DIR
#include <rissole.hpp>

#include <iostream>

static void expect(bool good, const char *what) {
    if (!good) {
        std::cerr << "not so: " << what << '\n';
        std::exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        return 2;
    }
    rissole_model *opened = nullptr;
    rissole::check([&](rissole_error *error) { return rissole_model_open(argv[1], &opened, error); });
    rissole::Model model(opened);
    rissole_options options = rissole::usual_options();
    options.steps = 1;
    rissole::Generator generator(model, options);
    std::vector<uint8_t> expected = generator.draw(7).pixels;

    unsigned told = 0;
    generator.on_progress([&](const rissole_progress &) {
        ++told;
        return true;
    });
    expect(generator.draw(7).pixels == expected && told > 2, "progress is told");

    // An exception comes out of draw as it was thrown, and the generator goes on.
    generator.on_progress([](const rissole_progress &) -> bool { throw std::out_of_range("mine"); });
    try {
        generator.draw(7);
        expect(false, "draw throws");
    } catch (const std::out_of_range &error) {
        expect(std::string(error.what()) == "mine", "the exception is the callback's");
    }
    generator.on_progress(rissole::Generator::Progress());
    expect(generator.draw(7).pixels == expected, "an empty function is told nothing");

    // A callback cannot be replaced while it runs; it stays, and is not freed.
    told = 0;
    generator.on_progress([&](const rissole_progress &) {
        ++told;
        try {
            generator.on_progress([](const rissole_progress &) { return false; });
        } catch (const rissole::Error &error) {
            return error.status == RISSOLE_STATUS_BUSY;
        }
        return false;
    });
    expect(generator.draw(7).pixels == expected && told > 2, "a busy generator keeps its callback");

    generator.on_progress([](const rissole_progress &) { return false; });
    try {
        generator.draw(7);
        expect(false, "draw throws");
    } catch (const rissole::Error &error) {
        expect(error.status == RISSOLE_STATUS_CANCELLED, "the callback stops");
    }

    try {
        rissole::Model none{std::vector<rissole_memory_file>()};
        expect(false, "no file is no model");
    } catch (const rissole::Error &error) {
        expect(error.status == RISSOLE_STATUS_ARGUMENT || error.status == RISSOLE_STATUS_BUNDLE, "it says so");
    }
    return 0;
}
