package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ThreadsTest {
  private static final int THREADS = 8;
  private static final int SIZE = 96;
  private static final float[] X = Data.weights(SIZE);

  @TempDir Path folder;
  private final ExecutorService pool = Executors.newFixedThreadPool(THREADS);

  @AfterEach
  void end() {
    pool.shutdownNow();
  }

  /** Work that is told which of the eight it is. */
  private interface Work {
    void run(int number) throws Exception;
  }

  private List<Future<?>> start(Work work) {
    List<Future<?>> futures = new ArrayList<>();
    for (int i = 0; i < THREADS; i++) {
      int number = i;
      futures.add(
          pool.submit(
              () -> {
                work.run(number);
                return null;
              }));
    }
    return futures;
  }

  private static void join(List<Future<?>> futures) throws Exception {
    for (Future<?> future : futures) {
      future.get();
    }
  }

  @Test
  void eightShareATensor() throws Exception {
    Path file = Data.archive(folder.resolve("w.cai"), SIZE, SIZE);
    for (boolean mapped : new boolean[] {true, false}) {
      try (Archive archive = mapped ? Archive.open(file) : Archive.openUnmapped(file);
          Tensor tensor = archive.tensor("w")) {
        float[] expected = tensor.matmul(X);
        float[] rows = tensor.decodeRowsF32(0, SIZE);
        join(
            start(
                number -> {
                  FloatBuffer x = Data.floatRoom(SIZE).put(X).flip();
                  FloatBuffer y = Data.floatRoom(SIZE);
                  for (int i = 0; i < 100; i++) {
                    tensor.matmul(x, y);
                    assertArrayEquals(expected, Data.floats(y));
                    assertArrayEquals(expected, tensor.matmul(X));
                    assertArrayEquals(rows, tensor.decodeRowsF32(0, SIZE));
                    try (Tensor again = archive.tensor(0)) {
                      assertEquals(SIZE, again.rows());
                    }
                  }
                }));
      }
    }
  }

  /** Freed memory is overwritten in these tests, so whoever uses it would be found out. */
  @Test
  void closingWhileEightMultiply() throws Exception {
    for (int round = 0; round < 50; round++) {
      Tensor tensor = Tensor.compress(Data.weights(SIZE * SIZE), "int8", SIZE, SIZE);
      float[] expected = tensor.matmul(X);
      CountDownLatch running = new CountDownLatch(THREADS);
      List<Future<?>> futures =
          start(
              number -> {
                FloatBuffer x = Data.floatRoom(SIZE).put(X).flip();
                FloatBuffer y = Data.floatRoom(SIZE);
                CortexException closed = null;
                while (closed == null) {
                  try {
                    tensor.matmul(x, y);
                    assertArrayEquals(expected, Data.floats(y));
                  } catch (CortexException e) {
                    closed = e;
                  }
                  running.countDown();
                }
                assertEquals("the tensor is closed", closed.getMessage());
              });
      running.await();
      tensor.close();
      join(futures);
    }
  }

  /** The last call frees what was closed under it, and no later one begins. */
  @Test
  void closingWaitsForTheLastCall() {
    Tensor tensor = Tensor.compress(Data.weights(SIZE * SIZE), "int8", SIZE, SIZE);
    Tensor same = tensor.duplicate();
    float[] expected = same.matmul(X);
    same.close();
    long[] live = new long[2];
    boolean[] refused = new boolean[1];
    // A call that is running while another one closes.
    tensor
        .handle()
        .use(
            address -> {
              live[0] = Handle.live();
              tensor.close();
              live[1] = Handle.live();
              try {
                tensor.matmul(X);
              } catch (CortexException e) {
                refused[0] = true;
              }
            });
    assertTrue(refused[0]);
    assertTrue(live[1] >= live[0], "freed under a call");
    Data.fails(ErrorKind.INVALID_ARGUMENT, tensor::rows, "closed");
    assertEquals(SIZE, expected.length);
  }

  @Test
  void eightWriteAnArchive() throws Exception {
    Path file = folder.resolve("eight.cai");
    try (Writer writer = Writer.create(file);
        Tensor tensor = Tensor.compress(Data.weights(SIZE), "dense", SIZE)) {
      join(
          start(
              number -> {
                String mine = "from " + number;
                for (int i = 0; i < 50; i++) {
                  writer.add(mine + " " + i, tensor);
                  writer.setMetadata(mine, "" + i);
                }
              }));
      writer.finish();
    }
    try (Archive archive = Archive.open(file)) {
      archive.verify();
      assertEquals(THREADS * 50, archive.size());
      assertEquals(THREADS, archive.metadata().size());
    }
  }

  @Test
  void eightUseAnIndex() throws Exception {
    try (SdrIndex index = new SdrIndex(512)) {
      index.add(0, 1, 2, 3);
      join(
          start(
              number -> {
                long first = 1000 * (1 + number);
                for (int i = 0; i < 200; i++) {
                  index.add(first + i, i, i + 200);
                  assertEquals(0, index.topK(1, 1, 2, 3).get(0).id());
                  if (i % 2 == 0) {
                    assertTrue(index.remove(first + i));
                  }
                }
              }));
      assertEquals(1 + THREADS * 100, index.size());
    }
  }

  @Test
  void closingAWriterAndAnIndexUnderEight() throws Exception {
    for (int round = 0; round < 20; round++) {
      Writer writer = Writer.create(folder.resolve("closed.cai"));
      SdrIndex index = new SdrIndex(256);
      CountDownLatch running = new CountDownLatch(THREADS);
      try (Tensor tensor = Tensor.compress(X, "dense", SIZE)) {
        List<Future<?>> futures =
            start(
                number -> {
                  long id = (long) number << 32;
                  try {
                    while (true) {
                      index.add(id, (int) (id++ & 255));
                      writer.add("w" + id, tensor);
                      running.countDown();
                    }
                  } catch (CortexException e) {
                    assertTrue(e.getMessage().endsWith("is closed"), e.getMessage());
                  }
                });
        running.await();
        writer.close();
        index.close();
        join(futures);
      }
    }
  }
}
