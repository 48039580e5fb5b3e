package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class NativeLibraryTest {
  @TempDir Path folder;

  /** Prints the version, for which the library is needed. */
  static final class Version {
    public static void main(String[] args) {
      System.out.println("version " + Cortex.version());
    }
  }

  private static List<Path> list(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.collect(Collectors.toList());
    }
  }

  @Test
  void manyThreadsMayExtract() throws Exception {
    byte[] bytes = {1, 2, 3};
    Path target = folder.resolve("new/folder");
    ExecutorService pool = Executors.newFixedThreadPool(8);
    List<Future<Path>> files = new ArrayList<>();
    for (int i = 0; i < 64; i++) {
      files.add(pool.submit(() -> NativeLibrary.extract(bytes, target)));
    }
    for (Future<Path> file : files) {
      assertEquals(files.get(0).get(), file.get());
      assertArrayEquals(bytes, Files.readAllBytes(file.get()));
    }
    pool.shutdown();
    assertEquals(1, list(target).size());
    assertEquals("rwx------", PosixFilePermissions.toString(Files.getPosixFilePermissions(target)));
    // Other contents have another name.
    assertNotEquals(files.get(0).get(), NativeLibrary.extract(new byte[] {4}, target));
  }

  @Test
  void whatLiesThereIsNotTrusted() throws IOException {
    byte[] bytes = {1, 2, 3};
    Path file = NativeLibrary.extract(bytes, folder);
    Files.write(file, new byte[] {9});
    assertEquals(file, NativeLibrary.extract(bytes, folder));
    assertArrayEquals(bytes, Files.readAllBytes(file));
    // A link is replaced, not followed.
    Path elsewhere = Files.write(folder.resolve("elsewhere"), new byte[] {7});
    Files.delete(file);
    Files.createSymbolicLink(file, elsewhere);
    NativeLibrary.extract(bytes, folder);
    assertArrayEquals(new byte[] {7}, Files.readAllBytes(elsewhere));
    assertTrue(!Files.isSymbolicLink(file));
  }

  @Test
  void foldersOfOthersAreRefused() throws IOException {
    for (String permissions : List.of("rwxrwxr-x", "rwxr-xrwx")) {
      Path open = Files.createDirectories(folder.resolve(permissions));
      Files.setPosixFilePermissions(open, PosixFilePermissions.fromString(permissions));
      IOException refused =
          assertThrows(IOException.class, () -> NativeLibrary.extract(new byte[1], open));
      assertTrue(refused.getMessage().contains("others can write to"), refused.getMessage());
      assertEquals(List.of(), list(open));
    }
    Path file = Files.createFile(folder.resolve("file"));
    assertThrows(IOException.class, () -> NativeLibrary.extract(new byte[1], file));
  }

  @Test
  void severalProcessesMayExtractAtOnce() throws Exception {
    Path target = folder.resolve("shared");
    List<Child> children = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      children.add(Child.start(folder, List.of("-Dio.cortex.path=" + target), Version.class));
    }
    for (Child child : children) {
      assertEquals(0, child.code(), child.output());
      assertEquals("version " + Cortex.version(), child.output().strip());
    }
    assertEquals(1, list(target).size());

    // The extracted file may be named itself.
    Path library = list(target).get(0);
    Child named = Child.start(folder, List.of("-Dio.cortex.library=" + library), Version.class);
    assertEquals(0, named.code(), named.output());
  }

  @Test
  void withoutAFolderNothingIsLeft() throws Exception {
    Path temporary = Files.createDirectories(folder.resolve("tmp"));
    Child child = Child.start(folder, List.of("-Djava.io.tmpdir=" + temporary), Version.class);
    assertEquals(0, child.code(), child.output());
    assertEquals(List.of(), list(temporary));
  }

  @Test
  void failuresSayWhatToDo() throws Exception {
    Child wrong = Child.start(folder, List.of("-Dio.cortex.library=/none.so"), Version.class);
    assertNotEquals(0, wrong.code());
    assertTrue(wrong.output().contains("UnsatisfiedLinkError"), wrong.output());
    Child machine = Child.start(folder, List.of("-Dos.arch=pdp11"), Version.class);
    assertNotEquals(0, machine.code());
    assertTrue(machine.output().contains("-pdp11/"), machine.output());
    assertTrue(machine.output().contains("-Dio.cortex.library="), machine.output());
    Path open = Files.createDirectories(folder.resolve("open"));
    Files.setPosixFilePermissions(open, PosixFilePermissions.fromString("rwxrwxrwx"));
    Child others = Child.start(folder, List.of("-Dio.cortex.path=" + open), Version.class);
    assertNotEquals(0, others.code());
    assertTrue(others.output().contains("others can write to"), others.output());
  }
}
