/* rissole in C++11: the handles of rissole.h as objects that close themselves, its errors as exceptions.
 *
 *     rissole::Model model("avatars64");
 *     rissole::Generator generator(model);
 *     rissole::Picture picture = generator.draw(7);    // picture.pixels: width × height × 3 bytes
 *
 * Whatever is not here is a call of rissole.h away: get() gives the handle.
 */
#ifndef RISSOLE_HPP
#define RISSOLE_HPP

#include "rissole.h"

#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace rissole {

/* What a function answered that was not RISSOLE_STATUS_OK. */
class Error : public std::runtime_error {
public:
    explicit Error(const rissole_error &error)
        : std::runtime_error(std::string(rissole_status_string(error.status)) + ": " + error.message),
          status(error.status), needs(error.needs) {}

    rissole_status status;
    /* Bytes that would do, for RISSOLE_STATUS_BUDGET. */
    uint64_t needs;
};

/* Throws what `call` says went wrong, given a rissole_error to fill in. */
template <typename Call> void check(Call call) {
    rissole_error error;
    if (call(&error) != RISSOLE_STATUS_OK) {
        throw Error(error);
    }
}

/* The usual options, to be changed. */
inline rissole_options usual_options() {
    rissole_options options;
    rissole_options_init(&options, sizeof options);
    return options;
}

/* The usual request, to be changed. */
inline rissole_request usual_request() {
    rissole_request request;
    rissole_request_init(&request, sizeof request);
    return request;
}

/* Red, green, blue of each pixel, row by row, and how they came about. */
struct Picture {
    uint32_t width;
    uint32_t height;
    std::vector<uint8_t> pixels;
    rissole_report report;
};

/* An opened bundle; threads may share it. */
class Model {
public:
    explicit Model(const std::string &folder) {
        rissole_model *opened = nullptr;
        check([&](rissole_error *error) { return rissole_model_open(folder.c_str(), &opened, error); });
        handle.reset(opened);
    }

    /* What reader's callbacks give; see rissole_model_open_reader. */
    explicit Model(const rissole_file_reader &reader) {
        rissole_model *opened = nullptr;
        check([&](rissole_error *error) { return rissole_model_open_reader(&reader, &opened, error); });
        handle.reset(opened);
    }

    /* Files in memory, used where they are; see rissole_model_open_memory. */
    explicit Model(const std::vector<rissole_memory_file> &files) {
        rissole_model *opened = nullptr;
        check([&](rissole_error *error) {
            return rissole_model_open_memory(files.data(), files.size(), &opened, error);
        });
        handle.reset(opened);
    }

    /* An open handle, which is closed with this object. */
    explicit Model(rissole_model *opened) : handle(opened) {}

    rissole_model_info info() const {
        rissole_model_info info;
        rissole_model_info_init(&info, sizeof info);
        check([&](rissole_error *error) { return rissole_model_get_info(get(), &info, error); });
        return info;
    }

    std::string name() const { return rissole_model_name(get()); }
    std::string licence() const { return rissole_model_licence(get()); }

    void verify() const {
        check([&](rissole_error *error) { return rissole_model_verify(get(), error); });
    }

    /* Bytes that a generator with `options` needs. */
    uint64_t plan(const rissole_options &options = usual_options()) const {
        uint64_t needs = 0;
        check([&](rissole_error *error) { return rissole_plan(get(), &options, &needs, error); });
        return needs;
    }

    rissole_model *get() const { return handle.get(); }

private:
    struct Close {
        void operator()(rissole_model *model) const { rissole_model_close(model); }
    };
    std::unique_ptr<rissole_model, Close> handle;
};

/* Draws; one thread at a time, cancel() apart. */
class Generator {
public:
    /* Told of progress; true to go on. What it throws ends the picture, and comes out of draw. */
    typedef std::function<bool(const rissole_progress &)> Progress;

    explicit Generator(const Model &model, const rissole_options &options = usual_options()) : info(model.info()) {
        rissole_generator *opened = nullptr;
        check([&](rissole_error *error) {
            return rissole_generator_open(model.get(), &options, &opened, error);
        });
        handle.reset(opened);
    }

    /* Has progress told to `told`; an empty function: to nobody. While a picture is drawn, Error with RISSOLE_STATUS_BUSY. */
    void on_progress(Progress told) {
        std::unique_ptr<Listener> next;
        if (told) {
            next.reset(new Listener{std::move(told), nullptr});
        }
        check([&](rissole_error *error) {
            return rissole_generator_set_progress(get(), next ? tell : nullptr, next.get(), error);
        });
        /* Only now is the one before not called any more. */
        listener.swap(next);
    }

    Picture draw(uint64_t seed) {
        rissole_request request = usual_request();
        request.seed = seed;
        return draw(request);
    }

    Picture draw(const rissole_request &request) {
        Picture picture = {info.width, info.height, std::vector<uint8_t>(), rissole_report()};
        picture.pixels.resize(static_cast<size_t>(info.width) * info.height * 3);
        rissole_report_init(&picture.report, sizeof picture.report);
        rissole_image image;
        rissole_image_init(&image, sizeof image);
        image.pixels = picture.pixels.data();
        image.bytes = picture.pixels.size();
        check([&](rissole_error *error) {
            rissole_status status = rissole_generate(get(), &request, &image, &picture.report, error);
            if (listener && listener->thrown) {
                std::exception_ptr thrown;
                std::swap(thrown, listener->thrown);
                std::rethrow_exception(thrown);
            }
            return status;
        });
        return picture;
    }

    /* Stops the picture that is being drawn, from any thread or signal handler. */
    void cancel() { rissole_generator_cancel(get()); }

    rissole_generator *get() const { return handle.get(); }

private:
    struct Listener {
        Progress told;
        std::exception_ptr thrown;
    };

    /* No exception may pass through the library. */
    static int tell(const rissole_progress *what, void *user) noexcept {
        Listener *listener = static_cast<Listener *>(user);
        try {
            return listener->told(*what) ? 0 : 1;
        } catch (...) {
            listener->thrown = std::current_exception();
            return 1;
        }
    }

    struct Close {
        void operator()(rissole_generator *generator) const { rissole_generator_close(generator); }
    };
    rissole_model_info info;
    /* Outlives the handle that calls it: members go in reverse order. */
    std::unique_ptr<Listener> listener;
    std::unique_ptr<rissole_generator, Close> handle;
};

} // namespace rissole

#endif
