package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.net.URI;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ArchiveTest {
  @TempDir Path folder;

  private Path two() {
    Path file = folder.resolve("zwei Gewichte · 二.cai");
    try (Tensor a = Tensor.compress(Data.weights(48), "int8", 6, 8);
        Tensor b = Tensor.compress(Data.weights(10), "dense", 10);
        Writer writer = Writer.create(file)) {
      writer.add("größe", a);
      writer.add("名前 \0 𝒳", b);
      writer.alias("tied", "größe");
      writer.setMetadata("format", "pt");
      writer.setMetadata("note", "ä\0𝒴");
      assertEquals(writer.finish(), file.toFile().length());
    }
    return file;
  }

  @Test
  void tellsWhatItHolds() {
    Path file = two();
    try (Archive archive = Archive.open(file);
        Archive unmapped = Archive.openUnmapped(file)) {
      for (Archive a : List.of(archive, unmapped)) {
        assertEquals(2, a.size());
        assertEquals(file.toFile().length(), a.fileBytes());
        assertEquals(List.of("größe", "名前 \0 𝒳"), a.names());
        assertEquals(Map.of("tied", "größe"), a.aliases());
        assertEquals(Map.of("format", "pt", "note", "ä\0𝒴"), a.metadata());
        assertEquals(0, a.find("größe"));
        assertEquals(0, a.find("tied"));
        assertEquals(1, a.find("名前 \0 𝒳"));
        assertEquals(-1, a.find("grösse"));
        a.verify();
        JsonObject report = JsonParser.parseString(a.inspect()).getAsJsonObject();
        assertEquals(a.fileBytes(), report.get("output_bytes").getAsLong());
        assertEquals(2, report.getAsJsonArray("tensors").size());
        try (Tensor byName = a.tensor("tied");
            Tensor byPlace = a.tensor(0)) {
          assertEquals("größe", byName.name().orElseThrow());
          assertArrayEquals(byPlace.decodeRowsF32(0, 6), byName.decodeRowsF32(0, 6));
        }
        try (Tensor odd = a.tensor("名前 \0 𝒳")) {
          assertEquals("名前 \0 𝒳", odd.name().orElseThrow());
        }
      }
      assertThrows(UnsupportedOperationException.class, () -> archive.names().clear());
      assertThrows(UnsupportedOperationException.class, () -> archive.metadata().clear());
    }
  }

  @Test
  void tensorsOutliveTheArchive() {
    Archive archive = Archive.open(two());
    try (Tensor tensor = archive.tensor(0)) {
      float[] expected = tensor.decodeRowsF32(0, 6);
      archive.close();
      archive.close();
      assertArrayEquals(expected, tensor.decodeRowsF32(0, 6));
      ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
      Data.fails(invalid, archive::size, "the archive is closed");
      Data.fails(invalid, archive::names, "closed");
      Data.fails(invalid, archive::inspect, "closed");
      Data.fails(invalid, archive::verify, "closed");
      Data.fails(invalid, () -> archive.tensor(0), "closed");
    }
  }

  @Test
  void whatIsNotThereIsRefused() throws IOException {
    Path file = two();
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    try (Archive archive = Archive.open(file)) {
      Data.fails(invalid, () -> archive.tensor("tiad"), "tiad", "did you mean 'tied'");
      Data.fails(invalid, () -> archive.tensor(2), "index is 2", "2 tensors");
      Data.fails(invalid, () -> archive.tensor(-1), "index is -1");
      Data.fails(invalid, () -> archive.tensor("\ud800x"), "name holds half of a surrogate pair");
      assertThrows(NullPointerException.class, () -> archive.tensor(null));
      assertThrows(NullPointerException.class, () -> archive.find(null));
    }
    assertThrows(NullPointerException.class, () -> Archive.open(null));
    Data.fails(ErrorKind.IO, () -> Archive.open(folder.resolve("fehlt ä.cai")), "fehlt ä.cai");
    Data.fails(invalid, () -> Archive.open(Path.of("")), "path is empty");
    Data.fails(invalid, () -> Archive.open(folder), "is not a file");
    Path text = Files.writeString(folder.resolve("text.cai"), "no archive".repeat(100));
    Data.fails(ErrorKind.CORRUPT, () -> Archive.open(text));
    URI zip = URI.create("jar:" + folder.resolve("other.zip").toUri());
    try (FileSystem other = FileSystems.newFileSystem(zip, Map.of("create", "true"))) {
      Data.fails(invalid, () -> Archive.open(other.getPath("x.cai")), "another file system");
    }
  }

  @Test
  void damageNamesTensorAndOffset() throws IOException {
    byte[] bytes = Files.readAllBytes(two());
    bytes[70] ^= 1; // In the first chunk, which begins at byte 64.
    Path bad = Files.write(folder.resolve("bad.cai"), bytes);
    try (Archive archive = Archive.open(bad)) {
      CortexException error = Data.fails(ErrorKind.CORRUPT, archive::verify, "größe", "64");
      assertEquals("größe", error.tensor().orElseThrow());
      assertEquals(64, error.offset().orElseThrow());
      try (Tensor tensor = archive.tensor("größe")) {
        Data.fails(ErrorKind.CORRUPT, tensor::verify);
      }
    }
    try (Archive archive = Archive.openUnmapped(bad);
        Tensor tensor = archive.tensor("größe")) {
      Data.fails(ErrorKind.CORRUPT, () -> tensor.matmul(new float[8]), "größe");
    }
  }

  @Test
  void manyNames() {
    Path file = folder.resolve("many.cai");
    try (Tensor tensor = Tensor.compress(new float[1], "dense", 1);
        Writer writer = Writer.create(file)) {
      for (int i = 0; i < 2000; i++) {
        writer.add("tensor " + i, tensor);
      }
      writer.finish();
    }
    try (Archive archive = Archive.open(file)) {
      List<String> names = archive.names();
      assertEquals(2000, names.size());
      assertTrue(names.contains("tensor 1999"));
    }
  }
}
