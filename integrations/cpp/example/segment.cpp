// Runs an engine on pictures in PPM and writes a map of segments for each:
//
//   segment ENGINE PICTURES OUT
//
// ENGINE: folder of an engine of the builder `cuda`. PICTURES: a file of one or more binary PPMs of the engine's frame
// size, or - for the standard input. OUT: a folder that exists. It gets NUMBER.ids.pgm (16 bits: segment ids),
// NUMBER.classes.pgm (8 bits: category_ids) and segments.jsonl (docs/outputs.md, "predict").
#include <vistas2engine.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Bytes = std::vector<unsigned char>;

void require(bool holds, const std::string& message) {
  if (!holds) throw std::runtime_error(message);
}

// A number of a PPM's header, after spaces and comments.
unsigned header_number(std::istream& in) {
  unsigned found = 0;
  while ((in >> std::ws).peek() == '#') in.ignore(1 << 20, '\n');
  require(static_cast<bool>(in >> found), "a picture's header is cut short");
  return found;
}

// Reads the next picture into `frame`; false at the end.
bool read_picture(std::istream& in, const v2e_description& about, unsigned char* frame) {
  if (in.peek() == std::istream::traits_type::eof()) return false;
  char magic[2] = {};
  in.read(magic, 2);
  require(magic[0] == 'P' && magic[1] == '6',
          "pictures must be binary PPMs (P6); convert them: ffmpeg -i FILE -f image2pipe -c:v ppm -");
  const unsigned width = header_number(in), height = header_number(in), most = header_number(in);
  const std::string size = std::to_string(about.width_px) + " x " + std::to_string(about.height_px);
  require(width == about.width_px && height == about.height_px && most == 255,
          "this engine takes pictures of " + size + " with values to 255, found " + std::to_string(width) + " x " +
              std::to_string(height) + " and " + std::to_string(most) + "; scale them first");
  in.get();
  const auto bytes = static_cast<std::streamsize>(about.input_bytes / about.batch_size);
  in.read(reinterpret_cast<char*>(frame), bytes);
  require(in.gcount() == bytes, "a picture is cut short");
  return true;
}

void write_file(const std::string& path, const std::string& header, const Bytes& content) {
  std::ofstream file(path, std::ios::binary);
  file << header;
  file.write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
  file.close();
  require(static_cast<bool>(file), "can't write " + path);
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    const bool plain = static_cast<unsigned char>(c) >= ' ' && c != '"' && c != '\\';
    out += plain ? std::string(1, c) : code;
  }
  return out + '"';
}

class Segmenter {
 public:
  explicit Segmenter(const std::string& folder) {
    v2e_engine* opened = nullptr;
    const v2e_status status = v2e_open(folder.c_str(), 2, &opened);
    engine_.reset(opened);
    check(status);
    check(v2e_describe(opened, &about_));
    for (std::uint32_t i = 0; i < about_->output_count; ++i) {
      memory_.emplace_back(about_->outputs[i].bytes);
      outputs_.push_back(memory_.back().data());
    }
    for (std::uint32_t i = 0; i < about_->category_count; ++i)
      require(about_->categories[i].id < 256, "classes are written with 8 bits, found a category_id above 255");
    if (std::string(about_->compiled_for) == "ptx")
      std::cerr << "warning: the engine has no machine code for compute capability " << about_->compute_capability
                << ": the driver compiled its PTX\n";
  }

  // Two batches in flight: while the GPU works on one, the next is read and the one before it is written.
  void run(std::istream& in, const std::string& out) {
    std::ofstream lines(out + "/segments.jsonl");
    std::deque<std::uint32_t> counts;  // of the pictures of the batches in flight
    bool more = true;
    while (more || !counts.empty()) {
      if (more) {
        const std::uint32_t count = submit(in);
        if (count) counts.push_back(count);
        more = count == about_->batch_size;
      }
      if (!counts.empty() && (counts.size() == 2 || !more)) {
        check(v2e_result(engine_.get(), outputs_.data()));
        for (std::uint32_t i = 0; i < counts.front(); ++i) write(i, out, lines);
        counts.pop_front();
      }
    }
    lines.close();
    require(static_cast<bool>(lines), "can't write " + out + "/segments.jsonl");
    require(written_ > 0, "there is no picture in the input");
    std::cout << written_ << " pictures in " << out << "\n";
  }

 private:
  void check(v2e_status status) {
    if (status == V2E_OK) return;
    std::string message(v2e_error(engine_.get(), nullptr, 0), ' ');
    v2e_error(engine_.get(), message.data(), message.size() + 1);
    throw std::runtime_error(message);
  }

  // Reads a batch into the engine's own memory and starts it; returns its number of pictures.
  std::uint32_t submit(std::istream& in) {
    std::uint8_t* frames = nullptr;
    check(v2e_input(engine_.get(), &frames));
    const std::size_t frame_bytes = about_->input_bytes / about_->batch_size;
    std::uint32_t count = 0;
    while (count < about_->batch_size && read_picture(in, *about_, frames + count * frame_bytes)) ++count;
    // The last picture fills the batch.
    for (std::uint32_t i = count; count && i < about_->batch_size; ++i)
      std::copy(frames + (count - 1) * frame_bytes, frames + count * frame_bytes, frames + i * frame_bytes);
    if (count) check(v2e_submit(engine_.get(), frames, about_->input_bytes));
    return count;
  }

  void write(std::uint32_t frame, const std::string& out, std::ostream& lines) {
    const std::size_t pixels = std::size_t{about_->height_px} * about_->width_px;
    std::vector<std::int32_t> ids(pixels);
    std::vector<v2e_segment> segments(about_->max_segments);
    std::uint32_t count = 0;
    check(v2e_segments(engine_.get(), outputs_.data(), frame, ids.data(), segments.data(), &count));
    Bytes class_of(65536), classes, wide;
    std::string rows;
    for (std::uint32_t i = 0; i < count; ++i) {
      const v2e_segment& segment = segments[i];
      const v2e_category* category = about_->categories;
      while (category < about_->categories + about_->category_count && category->id != segment.category_id) ++category;
      require(category < about_->categories + about_->category_count,
              "the engine has no class " + std::to_string(segment.category_id));
      class_of[static_cast<std::size_t>(segment.id)] = static_cast<unsigned char>(segment.category_id);
      char score[16] = "null";
      if (segment.score >= 0) std::snprintf(score, sizeof score, "%.4f", static_cast<double>(segment.score));
      const std::uint32_t* box = segment.bbox;
      rows += (rows.empty() ? "" : ", ") + std::string("{\"id\": ") + std::to_string(segment.id) +
              ", \"category_id\": " + std::to_string(segment.category_id) +
              ", \"category\": " + quoted(category->name) + ", \"isthing\": " + std::to_string(category->isthing) +
              ", \"score\": " + score + ", \"area_px\": " + std::to_string(segment.area_px) + ", \"bbox\": [" +
              std::to_string(box[0]) + ", " + std::to_string(box[1]) + ", " + std::to_string(box[2]) + ", " +
              std::to_string(box[3]) + "]}";
    }
    for (std::int32_t id : ids) {
      wide.push_back(static_cast<unsigned char>(id >> 8));
      wide.push_back(static_cast<unsigned char>(id & 255));
      classes.push_back(class_of[static_cast<std::size_t>(id)]);
    }
    char name[24];
    std::snprintf(name, sizeof name, "%06llu", static_cast<unsigned long long>(written_++));
    const std::string size = std::to_string(about_->width_px) + " " + std::to_string(about_->height_px);
    write_file(out + "/" + name + ".ids.pgm", "P5\n" + size + "\n65535\n", wide);
    write_file(out + "/" + name + ".classes.pgm", "P5\n" + size + "\n255\n", classes);
    lines << "{\"picture\": \"" << name << "\", \"height_px\": " << about_->height_px
          << ", \"width_px\": " << about_->width_px << ", \"segments\": [" << rows << "]}\n";
  }

  struct Close {
    void operator()(v2e_engine* engine) const { v2e_close(engine); }
  };
  std::unique_ptr<v2e_engine, Close> engine_;
  const v2e_description* about_ = nullptr;
  std::vector<Bytes> memory_;
  std::vector<void*> outputs_;
  std::uint64_t written_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  try {
    require(count == 4, "usage: segment ENGINE PICTURES OUT");
    std::ios::sync_with_stdio(false);
    Segmenter segmenter(arguments[1]);
    const std::string pictures = arguments[2];
    std::ifstream file;
    if (pictures != "-") {
      file.open(pictures, std::ios::binary);
      require(static_cast<bool>(file), "can't read " + pictures);
    }
    segmenter.run(pictures == "-" ? std::cin : file, arguments[3]);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
