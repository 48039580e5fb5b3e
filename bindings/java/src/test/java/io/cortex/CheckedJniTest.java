package io.cortex;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.platform.engine.discovery.ClassNameFilter.excludeClassNamePatterns;
import static org.junit.platform.engine.discovery.DiscoverySelectors.selectPackage;

import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.platform.launcher.Launcher;
import org.junit.platform.launcher.LauncherDiscoveryRequest;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;
import org.junit.platform.launcher.listeners.TestExecutionSummary;

/** The other tests once more, in a Java machine that checks every use of JNI. */
class CheckedJniTest {
  @TempDir Path folder;

  /** Runs the tests. */
  static final class Tests {
    public static void main(String[] args) {
      LauncherDiscoveryRequest request =
          LauncherDiscoveryRequestBuilder.request()
              .selectors(selectPackage("io.cortex"))
              // What starts further machines, or measures memory.
              .filters(
                  excludeClassNamePatterns(
                      ".*\\.(CheckedJniTest|NativeLibraryTest|LeaksTest)"))
              .build();
      SummaryGeneratingListener listener = new SummaryGeneratingListener();
      Launcher launcher = LauncherFactory.create();
      launcher.execute(request, listener);
      TestExecutionSummary summary = listener.getSummary();
      summary.printFailuresTo(new PrintWriter(System.out, true));
      System.out.println("succeeded: " + summary.getTestsSucceededCount());
      System.exit(summary.getTotalFailureCount() == 0 ? 0 : 1);
    }
  }

  @Test
  void nothingIsWarnedOf() throws Exception {
    Child child = Child.start(folder, List.of("-Xcheck:jni"), Tests.class);
    int code = child.code();
    String output = child.output();
    assertEquals(0, code, output);
    assertTrue(output.matches("(?s).*succeeded: \\d{3,}.*"), output);
    assertFalse(output.contains("WARNING") || output.contains("FATAL"), output);
  }
}
