package io.cortex;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * How a model file is compressed. Every method but the first gives changed options and leaves these
 * as they are.
 */
public final class CompressOptions {
  private static final CompressOptions DEFAULTS = new CompressOptions();

  String spec;
  String exclude;
  List<String> rules = List.of();
  int threads;
  Path calibration;
  boolean explain;
  ProgressListener progress;

  private CompressOptions() {}

  private CompressOptions(CompressOptions other) {
    spec = other.spec;
    exclude = other.exclude;
    rules = other.rules;
    threads = other.threads;
    calibration = other.calibration;
    explain = other.explain;
    progress = other.progress;
  }

  /**
   * {@code auto(error=1%)}, on all cores.
   *
   * @return the options that a call without options has
   */
  public static CompressOptions defaults() {
    return DEFAULTS;
  }

  /**
   * Sets the spec for every tensor that no rule names. A lossy one leaves integers, bools, vectors
   * and tensors of under 4096 elements lossless.
   *
   * @param spec the spec
   * @return the changed options
   */
  public CompressOptions spec(String spec) {
    CompressOptions changed = new CompressOptions(this);
    changed.spec = Objects.requireNonNull(spec, "spec");
    return changed;
  }

  /**
   * Keeps tensors lossless, rules or not.
   *
   * @param pattern regular expression, found anywhere in a tensor's name, unless it has ^ and $; in
   *     the syntax of the library (RE2's), not of {@link java.util.regex.Pattern}
   * @return the changed options
   */
  public CompressOptions exclude(String pattern) {
    CompressOptions changed = new CompressOptions(this);
    changed.exclude = Objects.requireNonNull(pattern, "pattern");
    return changed;
  }

  /**
   * Adds a rule. The first that matches a tensor's name counts.
   *
   * @param pattern regular expression, as for {@link #exclude}
   * @param spec spec for the tensors of such names, followed to the letter
   * @return the changed options
   */
  public CompressOptions rule(String pattern, String spec) {
    CompressOptions changed = new CompressOptions(this);
    List<String> rules = new ArrayList<>(this.rules);
    rules.add(Objects.requireNonNull(pattern, "pattern"));
    rules.add(Objects.requireNonNull(spec, "spec"));
    changed.rules = List.copyOf(rules);
    return changed;
  }

  /**
   * Sets the number of threads. The file does not depend on it.
   *
   * @param threads at most 4096; 0 for all cores
   * @return the changed options
   */
  public CompressOptions threads(int threads) {
    CompressOptions changed = new CompressOptions(this);
    changed.threads = threads;
    return changed;
  }

  /**
   * Names a file (safetensors, npy, npz) of second moments of the activations, an entry for each
   * tensor by its name: [in] for their diagonal, [in, in] for all.
   *
   * @param file the file
   * @return the changed options
   */
  public CompressOptions calibration(Path file) {
    CompressOptions changed = new CompressOptions(this);
    changed.calibration = Objects.requireNonNull(file, "file");
    return changed;
  }

  /**
   * Makes the report list for each tensor what was measured and why it was taken or not.
   *
   * @param explain whether it does
   * @return the changed options
   */
  public CompressOptions explain(boolean explain) {
    CompressOptions changed = new CompressOptions(this);
    changed.explain = explain;
    return changed;
  }

  /**
   * Sets who is told how far the call has come.
   *
   * @param listener who; null for nobody
   * @return the changed options
   */
  public CompressOptions progress(ProgressListener listener) {
    CompressOptions changed = new CompressOptions(this);
    changed.progress = listener;
    return changed;
  }
}
