package io.cortex;

import java.lang.ref.Cleaner;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.LongConsumer;
import java.util.function.LongFunction;
import java.util.function.LongToDoubleFunction;
import java.util.function.LongUnaryOperator;

/**
 * The address of a native object and the number of calls that use it. The object is freed once, by
 * whoever comes last: the one who closes, or the last call that was running then. Nobody waits.
 */
final class Handle implements Runnable {
  private static final Cleaner CLEANER = Cleaner.create();
  private static final AtomicLong LIVE = new AtomicLong();

  /** The lowest bit says that it is closed, the others count the calls that use it. */
  private static final int CLOSED = 1;

  private static final int CALL = 2;

  private final AtomicInteger state = new AtomicInteger();
  private final long address;
  private final String noun;
  private final LongConsumer free;
  private Cleaner.Cleanable cleanable;

  private Handle(long address, String noun, LongConsumer free) {
    this.address = address;
    this.noun = noun;
    this.free = free;
  }

  /** A handle that is closed at the latest when {@code owner}, which holds it, is unreachable. */
  static Handle of(Object owner, String noun, long address, LongConsumer free) {
    Handle handle = new Handle(address, noun, free);
    LIVE.incrementAndGet();
    handle.cleanable = CLEANER.register(owner, handle);
    return handle;
  }

  /** Native objects that exist. */
  static long live() {
    return LIVE.get();
  }

  /** The address, which stays good until as many calls of {@link #release} as of this. */
  long acquire() {
    int now;
    do {
      now = state.get();
      if ((now & CLOSED) != 0) {
        throw CortexException.invalid("the " + noun + " is closed");
      }
    } while (!state.compareAndSet(now, now + CALL));
    return address;
  }

  void release() {
    if (state.addAndGet(-CALL) == CLOSED) {
      free();
    }
  }

  /** Closes it, now or before. */
  void close() {
    cleanable.clean();
  }

  /** Closes it; called once, by {@link #close} or by the cleaner. */
  @Override
  public void run() {
    if (state.getAndAdd(CLOSED) == 0) {
      free();
    }
  }

  private void free() {
    LIVE.decrementAndGet();
    free.accept(address);
  }

  <T> T get(LongFunction<T> call) {
    long address = acquire();
    try {
      return call.apply(address);
    } finally {
      release();
    }
  }

  long getLong(LongUnaryOperator call) {
    long address = acquire();
    try {
      return call.applyAsLong(address);
    } finally {
      release();
    }
  }

  double getDouble(LongToDoubleFunction call) {
    long address = acquire();
    try {
      return call.applyAsDouble(address);
    } finally {
      release();
    }
  }

  void use(LongConsumer call) {
    long address = acquire();
    try {
      call.accept(address);
    } finally {
      release();
    }
  }
}
