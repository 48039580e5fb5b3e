package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SdrIndexTest {
  @TempDir Path folder;

  @Test
  void findsWhatSharesMost() {
    try (SdrIndex index = new SdrIndex(100)) {
      assertEquals(100, index.bits());
      assertEquals(0, index.size());
      index.add(7, 9, 1, 5);
      index.add(-1, 5, 9, 99); // 2⁶⁴ − 1: numbers have no sign.
      index.add(3, 50);
      assertEquals(3, index.size());
      assertTrue(index.memoryBytes() > 0);
      assertArrayEquals(new int[] {1, 5, 9}, index.get(7));
      List<SdrIndex.Match> found = index.topK(5, 5, 9);
      assertEquals("[7: 2, 18446744073709551615: 2]", found.toString());
      assertEquals(7, found.get(0).id());
      assertEquals(2, found.get(0).overlap());
      assertEquals(found, index.topK(2, 9, 5));
      assertEquals(found.get(0).hashCode(), index.topK(1, 5, 9).get(0).hashCode());
      assertNotEquals(found.get(0), found.get(1));
      assertEquals(List.of(), index.topK(0, 5));
      assertTrue(index.remove(7));
      assertFalse(index.remove(7));
      assertEquals(2, index.size());
      assertEquals(-1, index.topK(1, 5).get(0).id());
    }
  }

  @Test
  void savesAndLoads() throws IOException {
    Path file = folder.resolve("índice.sdr");
    try (SdrIndex index = new SdrIndex(64)) {
      index.add(1, 1, 2, 3);
      index.add(2, 3, 4);
      index.save(file);
      try (SdrIndex loaded = SdrIndex.load(file)) {
        assertEquals(64, loaded.bits());
        assertEquals(index.topK(2, 3, 4), loaded.topK(2, 3, 4));
        loaded.save(folder.resolve("again.sdr"));
      }
    }
    byte[] bytes = Files.readAllBytes(file);
    assertArrayEquals(bytes, Files.readAllBytes(folder.resolve("again.sdr")));
    for (int at = 0; at < bytes.length; at++) {
      byte[] bad = bytes.clone();
      bad[at] ^= 4;
      Path damaged = Files.write(folder.resolve("bad.sdr"), bad);
      CortexException error =
          assertThrows(CortexException.class, () -> SdrIndex.load(damaged).close());
      assertTrue(
          error.kind() == ErrorKind.CORRUPT || error.kind() == ErrorKind.UNSUPPORTED,
          error::getMessage);
    }
    Data.fails(ErrorKind.IO, () -> SdrIndex.load(folder.resolve("fehlt.sdr")), "fehlt.sdr");
    assertThrows(NullPointerException.class, () -> SdrIndex.load(null));
  }

  @Test
  void whatFitsNotIsRefused() {
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    Data.fails(invalid, () -> new SdrIndex(0));
    Data.fails(invalid, () -> new SdrIndex(-8), "bits is -8");
    Data.fails(invalid, () -> new SdrIndex(1L << 40), "1048576");
    SdrIndex index = new SdrIndex(10);
    index.add(1, 2);
    Data.fails(invalid, () -> index.add(1, 3), "item 1 is already there");
    Data.fails(invalid, () -> index.add(2, 10), "active", "10");
    Data.fails(invalid, () -> index.add(2, -1), "active");
    Data.fails(invalid, () -> index.add(2, 3, 3), "twice");
    Data.fails(invalid, () -> index.get(-2), "18446744073709551614");
    Data.fails(invalid, () -> index.topK(-1, 1), "k is -1");
    Data.fails(invalid, () -> index.topK(1, 10), "active");
    assertThrows(NullPointerException.class, () -> index.add(2, (int[]) null));
    assertThrows(NullPointerException.class, () -> index.topK(2, (int[]) null));
    assertThrows(NullPointerException.class, () -> index.save(null));
    index.close();
    index.close();
    Data.fails(invalid, () -> index.add(5, 1), "the index is closed");
    Data.fails(invalid, index::size, "closed");
  }
}
