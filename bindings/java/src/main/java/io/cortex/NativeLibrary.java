package io.cortex;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFilePermission;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.Locale;
import java.util.Set;

/**
 * Finds and loads the native library, once.
 *
 * <p>It is the file that the system property {@code io.cortex.library} names; or else the one in the
 * jar, which is written to the folder that {@code io.cortex.path} names, or to a new private folder
 * for temporary files that is emptied again at once.
 *
 * <p>Whoever could write to the file would run in this process. So it is only ever written to a
 * folder that belongs to the one who runs the program and that nobody else can write to; always
 * anew, beside its place, and renamed, so that several processes may do so at once.
 */
final class NativeLibrary {
  private static final String LIBRARY = "io.cortex.library";
  private static final String FOLDER = "io.cortex.path";
  private static final String NAME = "cortex_java";

  private NativeLibrary() {}

  /** Loads it, if that was not done yet. */
  static void load() {
    Loaded.init();
  }

  /** Initialised by one thread, which the others wait for. */
  private static final class Loaded {
    static {
      find();
    }

    static void init() {}
  }

  private static void find() {
    String library = System.getProperty(LIBRARY);
    if (library != null) {
      System.load(Path.of(library).toAbsolutePath().toString());
      return;
    }
    try {
      byte[] bytes = packed();
      String folder = System.getProperty(FOLDER);
      if (folder != null) {
        System.load(extract(bytes, Path.of(folder)).toString());
      } else {
        loadOnce(bytes);
      }
    } catch (IOException e) {
      UnsatisfiedLinkError error =
          new UnsatisfiedLinkError(
              "cannot extract the native library of Cortex: "
                  + e
                  + "; name a folder of yours with -D"
                  + FOLDER
                  + "=…, or the library with -D"
                  + LIBRARY
                  + "=…");
      error.initCause(e);
      throw error;
    }
  }

  /** Where the jar has the library for this machine. */
  static String resource() {
    String os = System.getProperty("os.name").toLowerCase(Locale.ROOT);
    String arch = System.getProperty("os.arch").toLowerCase(Locale.ROOT);
    os = os.startsWith("mac") ? "macos" : os.startsWith("windows") ? "windows" : os;
    arch = arch.equals("amd64") || arch.equals("x86-64") ? "x86_64" : arch;
    return "native/" + os + "-" + arch + "/" + System.mapLibraryName(NAME);
  }

  /** The library's bytes. */
  static byte[] packed() throws IOException {
    try (InputStream in = NativeLibrary.class.getResourceAsStream(resource())) {
      if (in == null) {
        throw new UnsatisfiedLinkError(
            "this jar has no native library of Cortex for this machine ("
                + resource()
                + "); name one with -D"
                + LIBRARY
                + "=…");
      }
      return in.readAllBytes();
    }
  }

  /** Loads the library from a folder that is gone afterwards where the system allows it. */
  private static void loadOnce(byte[] bytes) throws IOException {
    // Made with permissions for its owner alone.
    Path folder = Files.createTempDirectory("cortex-");
    Path file = null;
    try {
      file = extract(bytes, folder);
      System.load(file.toString());
    } finally {
      // What is loaded needs no name any more, except on Windows.
      try {
        if (file != null) {
          Files.deleteIfExists(file);
        }
        Files.deleteIfExists(folder);
      } catch (FileSystemException busy) {
        folder.toFile().deleteOnExit();
        if (file != null) {
          file.toFile().deleteOnExit();
        }
      }
    }
  }

  /**
   * Writes the library to a folder.
   *
   * @return the file, whose name tells its contents
   */
  static Path extract(byte[] bytes, Path folder) throws IOException {
    boolean posix = folder.getFileSystem().supportedFileAttributeViews().contains("posix");
    FileAttribute<?>[] mine = {};
    if (posix) {
      mine =
          new FileAttribute<?>[] {
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"))
          };
    }
    try {
      Files.createDirectories(folder, mine);
    } catch (FileAlreadyExistsException link) {
      // A link to a folder, which is as good as the folder; anything else fails below.
    }
    folder = folder.toRealPath();
    Path target = folder.resolve(System.mapLibraryName(NAME + "-" + digest(bytes)));
    Path beside = Files.createTempFile(folder, ".cortex-", ".tmp", mine);
    try {
      if (posix) {
        requireOwn(folder, beside);
      }
      try (OutputStream out = Files.newOutputStream(beside, StandardOpenOption.WRITE)) {
        out.write(bytes);
      }
      move(beside, target, bytes);
    } finally {
      Files.deleteIfExists(beside);
    }
    return target;
  }

  private static void move(Path beside, Path target, byte[] bytes) throws IOException {
    try {
      Files.move(beside, target, StandardCopyOption.ATOMIC_MOVE);
    } catch (FileSystemException busy) {
      // Windows does not replace a library that another process has loaded.
      boolean same =
          Files.isRegularFile(target, LinkOption.NOFOLLOW_LINKS)
              && Arrays.equals(Files.readAllBytes(target), bytes);
      if (!same) {
        throw busy;
      }
    }
  }

  /** Refuses a folder that others could change. {@code file} is one that this process just made. */
  private static void requireOwn(Path folder, Path file) throws IOException {
    Set<PosixFilePermission> permissions = Files.getPosixFilePermissions(folder);
    if (permissions.contains(PosixFilePermission.GROUP_WRITE)
        || permissions.contains(PosixFilePermission.OTHERS_WRITE)) {
      throw new IOException("others can write to " + folder);
    }
    if (!Files.getOwner(folder).equals(Files.getOwner(file))) {
      throw new IOException(folder + " belongs to " + Files.getOwner(folder).getName());
    }
  }

  private static String digest(byte[] bytes) {
    try {
      byte[] hash = MessageDigest.getInstance("SHA-256").digest(bytes);
      StringBuilder text = new StringBuilder();
      for (int i = 0; i < 8; i++) {
        text.append(String.format("%02x", hash[i]));
      }
      return text.toString();
    } catch (NoSuchAlgorithmException e) {
      throw new AssertionError("every Java has SHA-256", e);
    }
  }
}
