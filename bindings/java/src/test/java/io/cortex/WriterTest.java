package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class WriterTest {
  @TempDir Path folder;

  private List<String> files() throws IOException {
    try (Stream<Path> list = Files.list(folder)) {
      return list.map(p -> p.getFileName().toString()).sorted().collect(Collectors.toList());
    }
  }

  @Test
  void theFileAppearsWhenItIsFinished() throws IOException {
    Path file = Files.writeString(folder.resolve("модель.cai"), "old");
    try (Tensor tensor = Tensor.compress(Data.weights(48), "int8", 6, 8);
        Writer writer = Writer.create(file)) {
      writer.add("w", tensor);
      assertEquals("old", Files.readString(file));
      long bytes = writer.finish();
      assertEquals(bytes, Files.size(file));
      assertEquals(List.of("модель.cai"), files());
      Data.fails(ErrorKind.INVALID_ARGUMENT, writer::finish, "writer is finished");
      Data.fails(ErrorKind.INVALID_ARGUMENT, () -> writer.add("v", tensor), "writer is finished");
      try (Archive archive = Archive.open(file);
          Tensor stored = archive.tensor("w")) {
        assertArrayEquals(tensor.decodeRowsF32(0, 6), stored.decodeRowsF32(0, 6));
      }
    }
  }

  @Test
  void oneThatIsNotFinishedLeavesNothing() throws IOException {
    Path file = folder.resolve("never.cai");
    Writer writer = Writer.create(file);
    assertEquals(1, files().size());
    writer.close();
    writer.close();
    assertEquals(List.of(), files());
    Data.fails(ErrorKind.INVALID_ARGUMENT, writer::finish, "the writer is closed");
  }

  @Test
  void whatCannotBeWrittenIsRefused() {
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    try (Tensor tensor = Tensor.compress(Data.weights(4), "dense", 4);
        Writer writer = Writer.create(folder.resolve("w.cai"))) {
      writer.add("w", tensor);
      CortexException twice = Data.fails(invalid, () -> writer.add("w", tensor), "'w'");
      assertEquals("w", twice.tensor().orElseThrow());
      Data.fails(invalid, () -> writer.alias("v", "u"), "'u'");
      Data.fails(invalid, () -> writer.alias("w", "w"), "'w'");
      Data.fails(ErrorKind.LIMIT_EXCEEDED, () -> writer.add("n".repeat(5000), tensor), "5000");
      Data.fails(invalid, () -> writer.setMetadata("k", "\udc00"), "value holds half");
      assertThrows(NullPointerException.class, () -> writer.add(null, tensor));
      assertThrows(NullPointerException.class, () -> writer.add("n", null));
      assertThrows(NullPointerException.class, () -> writer.alias("n", null));
      assertThrows(NullPointerException.class, () -> writer.setMetadata(null, ""));
      Tensor closed = tensor.duplicate();
      closed.close();
      Data.fails(invalid, () -> writer.add("closed", closed), "the tensor is closed");
      // None of these broke it.
      writer.add("v", tensor);
      writer.finish();
    }
    Data.fails(ErrorKind.IO, () -> Writer.create(folder.resolve("no folder/w.cai")), "no folder");
    Data.fails(invalid, () -> Writer.create(folder), "folder");
    assertThrows(NullPointerException.class, () -> Writer.create(null));
  }
}
