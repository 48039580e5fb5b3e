package io.cortex;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** What is closed or forgotten is given back: memory, mappings and open files. */
@EnabledOnOs(OS.LINUX) // It reads /proc.
class LeaksTest {
  @TempDir Path folder;

  private Path model() {
    Path file = folder.resolve("leaks.cai");
    try (Tensor tensor = Tensor.compress(Data.weights(64 * 64), "int8", 64, 64);
        Writer writer = Writer.create(file)) {
      for (int i = 0; i < 30; i++) {
        writer.add("tensor with a name of some length " + i, tensor);
      }
      writer.finish();
    }
    return file;
  }

  private static long residentBytes() throws IOException {
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmRSS:")) {
        return 1024 * Long.parseLong(line.replaceAll("\\D", ""));
      }
    }
    throw new AssertionError("no VmRSS");
  }

  /** Open files and mappings of the test's folder. */
  private long used() throws IOException {
    String mine = folder.toRealPath().toString();
    List<Path> descriptors;
    try (Stream<Path> list = Files.list(Path.of("/proc/self/fd"))) {
      descriptors = list.collect(Collectors.toList());
    }
    long count = 0;
    for (Path descriptor : descriptors) {
      try {
        count += Files.readSymbolicLink(descriptor).toString().contains(mine) ? 1 : 0;
      } catch (IOException closed) {
        // The one that listed the folder.
      }
    }
    for (String line : Files.readAllLines(Path.of("/proc/self/maps"))) {
      count += line.contains(mine) ? 1 : 0;
    }
    return count;
  }

  private static void cycle(Path file, int i) {
    try (Archive archive = i % 2 == 0 ? Archive.open(file) : Archive.openUnmapped(file);
        Tensor tensor = archive.tensor(i % 30);
        Tensor second = tensor.duplicate();
        SdrIndex index = new SdrIndex(4096)) {
      index.add(1, 5, 9);
      second.matmul(new float[64]);
      try {
        archive.tensor("none");
      } catch (CortexException expected) {
        assertEquals(ErrorKind.INVALID_ARGUMENT, expected.kind());
      }
    }
  }

  @Test
  void tenThousandCycles() throws Exception {
    Path file = model();
    for (int i = 0; i < 2000; i++) {
      cycle(file, i);
    }
    long live = collect(0);
    long before = residentBytes();
    for (int i = 0; i < 10_000; i++) {
      cycle(file, i);
    }
    assertEquals(live, Handle.live());
    assertEquals(0, used());
    long grown = residentBytes() - before;
    // The index of an archive alone has 10 KB: leaked, they would be 100 MB and more.
    assertTrue(grown < 32 << 20, "grown by " + grown + " bytes");
  }

  /** Collects garbage until no more than so many native objects live; how many do. */
  private static long collect(long most) throws InterruptedException {
    for (int i = 0; i < 200 && Handle.live() > most; i++) {
      System.gc();
      Thread.sleep(10);
    }
    return Handle.live();
  }

  private static void abandon(Path file) {
    for (int i = 0; i < 250; i++) {
      Archive archive = Archive.open(file);
      archive.tensor(i % 30).duplicate();
      new SdrIndex(1024);
      Writer.create(file.resolveSibling("abandoned" + i % 3));
    }
  }

  @Test
  void abandonedHandlesAreClosed() throws Exception {
    Path file = model();
    long before = collect(0);
    abandon(file);
    assertTrue(collect(before) <= before, Handle.live() + " live, " + before + " before");
    assertEquals(0, used());
    try (Stream<Path> list = Files.list(folder)) {
      assertEquals(List.of(file), list.collect(Collectors.toList()));
    }
  }
}
