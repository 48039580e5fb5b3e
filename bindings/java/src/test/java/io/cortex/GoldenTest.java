package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/** The archives of format version 1 that every later version must open. */
class GoldenTest {
  private static List<JsonObject> archives(String key) {
    return Data.objects(Data.json(Data.GOLDEN.resolve("manifest.json")), key);
  }

  private static Map<String, String> map(JsonObject object, String key) {
    Map<String, String> map = new TreeMap<>();
    object.getAsJsonObject(key).entrySet().forEach(e -> map.put(e.getKey(), e.getValue().getAsString()));
    return map;
  }

  @TestFactory
  Stream<DynamicTest> everyTensorDecodes() {
    return archives("archives").stream()
        .map(
            a ->
                dynamicTest(
                    Data.text(a, "file"),
                    () -> {
                      Path file = Data.GOLDEN.resolve(Data.text(a, "file"));
                      try (Archive mapped = Archive.open(file);
                          Archive unmapped = Archive.openUnmapped(file)) {
                        check(a, mapped);
                        check(a, unmapped);
                      }
                    }));
  }

  private static void check(JsonObject expected, Archive archive) {
    List<JsonObject> tensors = new ArrayList<>();
    // An archive may be empty.
    expected.getAsJsonArray("tensors").forEach(t -> tensors.add(t.getAsJsonObject()));
    assertEquals(map(expected, "metadata"), new TreeMap<>(archive.metadata()));
    assertEquals(map(expected, "aliases"), new TreeMap<>(archive.aliases()));
    assertEquals(
        tensors.stream().map(t -> Data.text(t, "name")).collect(Collectors.toList()),
        archive.names());
    assertEquals(tensors.size(), archive.size());
    archive.verify();
    for (int i = 0; i < tensors.size(); i++) {
      JsonObject t = tensors.get(i);
      try (Tensor tensor = archive.tensor(i)) {
        assertEquals(Data.text(t, "name"), tensor.name().orElseThrow());
        assertEquals(Data.text(t, "dtype"), tensor.dtype().toString());
        assertArrayEquals(Data.longs(t, "shape"), tensor.shape());
        assertEquals(Data.text(t, "spec"), tensor.spec());
        assertArrayEquals(Data.bytes(t, "decoded"), Data.bytes(tensor.decompress()));
        tensor.verify();
      }
    }
    archive
        .aliases()
        .forEach((alias, target) -> assertEquals(archive.find(target), archive.find(alias)));
  }

  /** What no version knows yet is refused by name; the rest of the file opens. */
  @Test
  void newerThingsAreRefused() {
    for (JsonObject a : archives("refused")) {
      try (Archive archive = Archive.open(Data.GOLDEN.resolve(Data.text(a, "file")))) {
        for (String name : archive.names()) {
          if (name.startsWith("known")) {
            try (Tensor tensor = archive.tensor(name)) {
              assertEquals(tensor.rawBytes(), tensor.decompress().remaining());
            }
          } else {
            CortexException error =
                Data.fails(ErrorKind.UNSUPPORTED, () -> archive.tensor(name).close());
            assertEquals(name, error.tensor().orElseThrow());
          }
        }
      }
    }
  }

  /** No position of a damaged file does worse than an exception, or a tensor that decodes. */
  @Test
  void flippedBytesAreErrors(@TempDir Path folder) throws IOException {
    int refused = 0;
    for (JsonObject a : archives("archives")) {
      byte[] good = Files.readAllBytes(Data.GOLDEN.resolve(Data.text(a, "file")));
      int step = Math.max(1, good.length / 40);
      for (int at = 0; at < good.length; at += step) {
        byte[] bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        Path file = folder.resolve("bad.cai");
        // Another file each time: an archive that is still mapped must not change.
        Files.deleteIfExists(file);
        Files.write(file, bad);
        try (Archive archive = Archive.open(file)) {
          for (int i = 0; i < archive.size(); i++) {
            try (Tensor tensor = archive.tensor(i)) {
              tensor.decompress();
            }
          }
          archive.verify();
        } catch (CortexException error) {
          assertTrue(
              error.kind() == ErrorKind.CORRUPT
                  || error.kind() == ErrorKind.UNSUPPORTED
                  || error.kind() == ErrorKind.LIMIT_EXCEEDED,
              () -> error.kind() + ": " + error.getMessage());
          refused++;
        }
      }
    }
    assertTrue(refused > 40, "refused " + refused);
  }
}
