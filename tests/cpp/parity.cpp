// The C symbols against what the headers offer: parity PARITY.json SYMBOLS.txt INCLUDE. Fails
// unless parity.json names every symbol, each with what takes its place in C++, and everything
// that the headers offer, found by reading them, is listed there.

#include "json.hpp"

#include <cctype>
#include <set>

static bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// The code without comments, texts and lines of the preprocessor.
static std::string code_of(const std::string &text) {
  std::string out;
  bool line_start = true;
  for (std::size_t i = 0; i < text.size(); i++) {
    const char c = text[i], next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (c == '/' && next == '/') {
      while (i < text.size() && text[i] != '\n') i++;
      out += '\n';
      line_start = true;
    } else if (c == '"' || (c == '\'' && !(i && is_word(text[i - 1])))) {
      for (i++; text[i] != c; i++) i += text[i] == '\\';
      out += '0';
    } else if (c == '#' && line_start) {
      while (i < text.size() && text[i] != '\n') i += text[i] == '\\' ? 2 : 1;
      out += '\n';
    } else {
      out += c;
      line_start = c == '\n' || (line_start && std::isspace(static_cast<unsigned char>(c)));
    }
  }
  return out;
}

// Behind the bracket that closes the one at `at`.
static std::size_t behind(const std::string &code, std::size_t at, char open, char close) {
  int depth = 0;
  for (; at < code.size(); at++) {
    depth += (code[at] == open) - (code[at] == close);
    if (!depth) return at + 1;
  }
  std::fprintf(stderr, "no %c\n", close);
  std::abort();
}

static std::string trimmed(const std::string &text) {
  const std::size_t first = text.find_first_not_of(" \n\t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \n\t") - first + 1);
}

static bool begins(const std::string &text, const std::string &word) {
  return text.rfind(word, 0) == 0 && (text.size() == word.size() || !is_word(text[word.size()]));
}

// The identifier that begins at or after `from`, or ends before `to`.
static std::string word_after(const std::string &text, std::size_t from) {
  while (from < text.size() && !is_word(text[from])) from++;
  std::size_t end = from;
  while (end < text.size() && is_word(text[end])) end++;
  return text.substr(from, end - from);
}

static std::string word_before(const std::string &text, std::size_t to) {
  while (to > 0 && !is_word(text[to - 1])) to--;
  std::size_t start = to;
  while (start > 0 && is_word(text[start - 1])) start--;
  return text.substr(start, to - start);
}

static std::string without_template(std::string head) {
  while (begins(head, "template")) head = trimmed(head.substr(behind(head, head.find('<'), '<', '>')));
  return head;
}

struct Scope {
  std::string type;  // empty for a namespace
  bool open;         // what stands here is offered
};

static void found(std::set<std::string> &names, const Scope &scope, const std::string &name) {
  if (scope.open) names.insert(scope.type.empty() ? name : scope.type + "." + name);
}

static std::string function_name(const std::string &head) {
  const std::size_t at = head.find("operator");
  if (at != std::string::npos) {
    std::size_t end = head.find('(', at);
    if (trimmed(head.substr(at + 8, end - at - 8)).empty()) end = head.find('(', end + 1);
    return head.substr(at, end - at);
  }
  return word_before(head, head.find('('));
}

// A statement that ends in `;`, or the head of a function.
static void statement(std::set<std::string> &names, const Scope &scope, std::string head) {
  head = without_template(trimmed(head));
  if (head.empty() || begins(head, "friend") || begins(head, "static_assert")) return;
  if (begins(head, "using")) {
    // The usual names inside a container tell nothing of Cortex.
    if (scope.type.empty()) found(names, scope, word_after(head, 5));
  } else if (head.find("operator") != std::string::npos || head.find('(') < head.find('=')) {
    found(names, scope, function_name(head));
  } else if (!begins(head, "class") && !begins(head, "struct")) {
    found(names, scope, word_before(head, std::min(head.find('='), head.size())));
  }
}

static void offered(std::set<std::string> &names, const std::string &code) {
  std::vector<Scope> scopes = {{"", false}};
  std::string head;
  int parens = 0;
  for (std::size_t i = 0; i < code.size(); i++) {
    const char c = code[i];
    parens += (c == '(') - (c == ')');
    if (parens || (c != '{' && c != '}' && c != ';' && c != ':')) {
      head += c;
    } else if (c == ':') {
      const std::string label = trimmed(head);
      const bool is_label = label == "public" || label == "private";
      if (is_label) scopes.back().open = label == "public";
      head = is_label ? "" : head + c;
    } else if (c == ';') {
      statement(names, scopes.back(), head);
      head.clear();
    } else if (c == '}') {
      scopes.pop_back();
      head.clear();
    } else {
      const std::string plain = without_template(trimmed(head));
      // What stands after the first word: `class Name`, `namespace name`.
      const std::string type = word_after(plain, std::min(plain.find(' '), plain.size()));
      if (begins(plain, "namespace") || plain == "CORTEX_HPP_MODE") {
        scopes.push_back({"", type != "detail"});
        if (type == "detail") {
          scopes.pop_back();
          i = behind(code, i, '{', '}') - 1;
        }
      } else if (begins(plain, "class") || begins(plain, "struct")) {
        const bool attribute = type == "CORTEX_HPP_VISIBLE" || type == "nodiscard";
        const std::string name =
            attribute ? word_after(plain, plain.find(type) + type.size()) : type;
        if (!scopes.back().open) {
          i = behind(code, i, '{', '}') - 1;
        } else {
          found(names, scopes.back(), name);
          scopes.push_back({name, begins(plain, "struct")});
        }
      } else if (begins(plain, "enum")) {
        found(names, scopes.back(), word_after(plain, plain.find("class") + 5));
        i = behind(code, i, '{', '}') - 1;
      } else if (plain.find('(') != std::string::npos) {
        statement(names, scopes.back(), head);
        i = behind(code, i, '{', '}') - 1;
        head.clear();
        continue;
      } else {
        // The value of a field.
        i = behind(code, i, '{', '}') - 1;
        continue;
      }
      head.clear();
    }
  }
}

static void compare(const char *what, const std::set<std::string> &listed,
                    const std::set<std::string> &real) {
  for (const std::string &name : listed) {
    if (real.count(name)) continue;
    failures++;
    std::fprintf(stderr, "%s: %s is listed in parity.json, but is not there\n", what, name.c_str());
  }
  for (const std::string &name : real) {
    if (listed.count(name)) continue;
    failures++;
    std::fprintf(stderr, "%s: %s is not listed in parity.json\n", what, name.c_str());
  }
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  const Json parity = read_json(argv[1]);
  std::set<std::string> listed_symbols, listed, symbols, names;
  for (const auto &[symbol, members] : parity["symbols"].items()) {
    listed_symbols.insert(symbol);
    IN(symbol, !members.empty());
    for (const std::string member : members) listed.insert(member);
  }
  for (const auto &[name, why] : parity["extra"].items()) {
    IN(name, why.get<std::string>().size() > 5);
    IN(name, listed.insert(name).second);
  }
  std::ifstream lines(argv[2]);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line[0] != '#') symbols.insert(line);
  }
  const std::string include = argv[3];
  const Bytes all = read_file(include + "/cortex.hpp");
  // The headers that cortex.hpp includes.
  const std::string text(all.begin(), all.end());
  std::size_t headers = 0;
  for (std::size_t at = 0; (at = text.find("#include <cortex/", at)) != std::string::npos; at++) {
    const std::size_t start = at + 10, end = text.find('>', start);
    const Bytes bytes = read_file(include + "/" + text.substr(start, end - start));
    offered(names, code_of(std::string(bytes.begin(), bytes.end())));
    headers++;
  }
  CHECK(headers >= 12 && symbols.size() >= 70 && names.size() >= 100);
  compare("symbols.txt", listed_symbols, symbols);
  compare("the headers", listed, names);
  std::printf("%zu symbols, %zu names in %zu headers\n", symbols.size(), names.size(), headers);
  return report();
}
