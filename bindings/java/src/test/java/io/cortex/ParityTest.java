package io.cortex;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Member;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** Every function of the C ABI has its place in Java, and nothing is public that has none. */
class ParityTest {
  private static final JsonObject PARITY = Data.json(Path.of("parity.json"));

  @Test
  void everySymbolHasItsPlace() throws IOException {
    Set<String> symbols;
    try (Stream<String> lines = Files.lines(Data.ROOT.resolve("tests/abi/symbols.txt"))) {
      symbols =
          lines
              .map(String::strip)
              .filter(line -> !line.isEmpty() && !line.startsWith("#"))
              .collect(Collectors.toCollection(TreeSet::new));
    }
    JsonObject places = PARITY.getAsJsonObject("symbols");
    assertEquals(symbols, new TreeSet<>(places.keySet()));
    for (String symbol : symbols) {
      assertFalse(places.getAsJsonArray(symbol).isEmpty(), symbol);
    }
  }

  @Test
  void everyPublicMemberIsListed() throws Exception {
    Set<String> listed = new TreeSet<>(PARITY.getAsJsonObject("extra").keySet());
    for (String symbol : PARITY.getAsJsonObject("symbols").keySet()) {
      for (JsonElement member : PARITY.getAsJsonObject("symbols").getAsJsonArray(symbol)) {
        listed.add(member.getAsString());
      }
    }
    Set<String> found = new TreeSet<>();
    for (Class<?> type : publicClasses()) {
      found.addAll(members(type));
    }
    assertEquals(listed, found);
  }

  /** What javac made of the package, without what only the package sees. */
  private static List<Class<?>> publicClasses() throws Exception {
    Path classes = Path.of(Tensor.class.getProtectionDomain().getCodeSource().getLocation().toURI());
    List<Class<?>> types = new ArrayList<>();
    try (Stream<Path> files = Files.list(classes.resolve("io/cortex"))) {
      for (Path file : files.collect(Collectors.toList())) {
        String name = file.getFileName().toString();
        if (name.endsWith(".class") && !name.equals("package-info.class")) {
          Class<?> type = Class.forName("io.cortex." + name.substring(0, name.length() - 6));
          if (Modifier.isPublic(type.getModifiers())) {
            types.add(type);
          }
        }
      }
    }
    assertTrue(types.contains(Tensor.class));
    return types;
  }

  private static Set<String> members(Class<?> type) {
    String noun = type.getName().substring("io.cortex.".length()).replace('$', '.');
    Set<String> names = new TreeSet<>();
    for (Method method : type.getDeclaredMethods()) {
      // The compiler's own of an enum.
      boolean made = type.isEnum() && Modifier.isStatic(method.getModifiers())
          && (method.getName().equals("values") || method.getName().equals("valueOf"));
      if (visible(method) && !made) {
        names.add(noun + "." + method.getName());
      }
    }
    for (Constructor<?> constructor : type.getDeclaredConstructors()) {
      if (visible(constructor)) {
        names.add(noun + ".new");
      }
    }
    for (Field field : type.getDeclaredFields()) {
      if (visible(field)) {
        names.add(noun + "." + field.getName());
      }
    }
    return names;
  }

  private static boolean visible(Member member) {
    return Modifier.isPublic(member.getModifiers()) && !member.isSynthetic();
  }
}
