package io.cortex;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystems;
import java.nio.file.Path;
import java.util.Objects;

/** Texts and paths as the native library takes them. */
final class Text {
  private Text() {}

  /** The UTF-8 of a text. Java's strings may hold halves of surrogate pairs, which are no text. */
  static byte[] utf8(String text, String name) {
    Objects.requireNonNull(text, name);
    try {
      ByteBuffer bytes = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(text));
      byte[] copy = new byte[bytes.remaining()];
      bytes.get(copy);
      return copy;
    } catch (CharacterCodingException e) {
      throw CortexException.invalid(name + " holds half of a surrogate pair");
    }
  }

  /** The UTF-8 of a text; null for null. */
  static byte[] optionalUtf8(String text, String name) {
    return text == null ? null : utf8(text, name);
  }

  /** The UTF-8 of a path, which must be one of the machine's own files. */
  static byte[] path(Path path, String name) {
    Objects.requireNonNull(path, name);
    if (path.getFileSystem() != FileSystems.getDefault()) {
      throw CortexException.invalid(
          name + " " + path + " is in another file system, " + path.getFileSystem());
    }
    return utf8(path.toString(), name);
  }

  /** The UTF-8 of a path; null for null. */
  static byte[] optionalPath(Path path, String name) {
    return path == null ? null : path(path, name);
  }
}
