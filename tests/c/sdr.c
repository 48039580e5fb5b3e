/* The index of sparse sets: what it finds, what it refuses, and its file, whole and
   damaged. */

#include "check.h"

#define BAD CORTEX_INVALID_ARGUMENT

enum { BITS = 500, ITEMS = 60, WEIGHT = 12 };

/* Active bits of an item, not sorted: a window that wraps round, and one bit of its own. */
static void item(uint64_t id, uint32_t *active) {
  for (uint32_t i = 0; i + 1 < WEIGHT; i++) active[i] = ((uint32_t)id * 7 + 3 * i) % (BITS - ITEMS);
  active[WEIGHT - 1] = BITS - 1 - (uint32_t)id;
}

static uint64_t overlap(const uint32_t *a, const uint32_t *b) {
  uint64_t shared = 0;
  for (int i = 0; i < WEIGHT; i++)
    for (int k = 0; k < WEIGHT; k++) shared += a[i] == b[k];
  return shared;
}

static int by_rank(const void *a, const void *b) {
  const cortex_sdr_match *x = a, *y = b;
  if (x->overlap != y->overlap) return x->overlap < y->overlap ? 1 : -1;
  return x->id < y->id ? -1 : x->id > y->id;
}

/* What is found is what comparing with each item finds. `gone` is no longer there. */
static void finds(const cortex_sdr_index *index, uint64_t gone) {
  for (uint64_t q = 0; q < ITEMS; q += 7) {
    uint32_t query[WEIGHT], active[WEIGHT];
    cortex_sdr_match expected[ITEMS], found[ITEMS];
    size_t expected_len = 0, found_len = 0;
    item(q, query);
    for (uint64_t id = 0; id < ITEMS; id++) {
      item(id, active);
      cortex_sdr_match match = {id, overlap(query, active)};
      if (id != gone && match.overlap) expected[expected_len++] = match;
    }
    qsort(expected, expected_len, sizeof *expected, by_rank);
    OK(cortex_sdr_index_top_k(index, query, WEIGHT, ITEMS, found, &found_len, &err));
    CHECK(found_len == expected_len && !memcmp(found, expected, found_len * sizeof *found));
    memset(found, 0xa5, sizeof found);
    OK(cortex_sdr_index_top_k(index, query, WEIGHT, 3, found, &found_len, &err));
    CHECK(found_len == 3 && !memcmp(found, expected, 3 * sizeof *found));
    CHECK(found[3].id == 0xa5a5a5a5a5a5a5a5u);
  }
}

static cortex_sdr_index *filled(void) {
  cortex_sdr_index *index = NULL;
  OK(cortex_sdr_index_create(BITS, &index, &err));
  CHECK(cortex_sdr_index_bits(index) == BITS && cortex_sdr_index_len(index) == 0);
  uint64_t empty = cortex_sdr_index_memory_bytes(index);
  for (uint64_t id = 0; id < ITEMS; id++) {
    uint32_t active[WEIGHT];
    item(id, active);
    OK(cortex_sdr_index_add(index, id, active, WEIGHT, &err));
  }
  CHECK(cortex_sdr_index_len(index) == ITEMS);
  CHECK(cortex_sdr_index_memory_bytes(index) >= empty + ITEMS * BITS / 8);
  return index;
}

static void reads_and_removes(cortex_sdr_index *index) {
  uint32_t active[WEIGHT], back[WEIGHT + 1];
  size_t len = 0;
  item(13, active);
  OK(cortex_sdr_index_get(index, 13, NULL, 0, &len, &err));
  CHECK(len == WEIGHT);
  memset(back, 0xa5, sizeof back);
  OK(cortex_sdr_index_get(index, 13, back, WEIGHT, &len, &err));
  CHECK(len == WEIGHT && overlap(active, back) == WEIGHT && back[WEIGHT] == 0xa5a5a5a5u);
  for (int i = 1; i < WEIGHT; i++) CHECK(back[i - 1] < back[i]);
  memset(back, 0xa5, sizeof back);
  len = 77;
  FAILS(BAD, "active_cap is 11, but 12",
        cortex_sdr_index_get(index, 13, back, WEIGHT - 1, &len, &err));
  FAILS(BAD, "active_cap is 0", cortex_sdr_index_get(index, 13, back, 0, &len, &err));
  FAILS(BAD, "active is NULL", cortex_sdr_index_get(index, 13, NULL, 1, &len, &err));
  FAILS(BAD, "active_len is NULL", cortex_sdr_index_get(index, 13, back, WEIGHT, NULL, &err));
  FAILS(BAD, "id 6000000000",
        cortex_sdr_index_get(index, 6000000000u, back, WEIGHT, &len, &err));
  CHECK(len == 77 && back[0] == 0xa5a5a5a5u);

  int32_t removed = 77;
  finds(index, UINT64_MAX);
  OK(cortex_sdr_index_remove(index, 13, &removed, &err));
  CHECK(removed == 1 && cortex_sdr_index_len(index) == ITEMS - 1);
  OK(cortex_sdr_index_remove(index, 13, &removed, &err));
  CHECK(removed == 0 && cortex_sdr_index_len(index) == ITEMS - 1);
  finds(index, 13);
  OK(cortex_sdr_index_add(index, 13, active, WEIGHT, &err));
  OK(cortex_sdr_index_remove(index, 14, NULL, &err));
  item(14, active);
  OK(cortex_sdr_index_add(index, 14, active, WEIGHT, &err));
  finds(index, UINT64_MAX);
}

static void edges_and_mistakes(cortex_sdr_index *index) {
  uint32_t active[] = {3, 1, 3};
  cortex_sdr_match match = {77, 77};
  cortex_sdr_index *poison = (void *)&match;
  size_t len = 77;
  FAILS(BAD, "0 bits", cortex_sdr_index_create(0, &poison, &err));
  FAILS(BAD, "1048577 bits", cortex_sdr_index_create(1048577, &poison, &err));
  CHECK(poison == (void *)&match);
  FAILS(BAD, "active: an active bit is given twice",
        cortex_sdr_index_add(index, 1000, active, 3, &err));
  active[2] = BITS;
  FAILS(BAD, "active bit 500 of 500", cortex_sdr_index_add(index, 1000, active, 3, &err));
  FAILS(BAD, "active is NULL", cortex_sdr_index_add(index, 1000, NULL, 1, &err));
  FAILS(BAD, "active", cortex_sdr_index_add(index, 1000, active, SIZE_MAX, &err));
  FAILS(BAD, "item 5 is already there", cortex_sdr_index_add(index, 5, active, 2, &err));
  CHECK(cortex_sdr_index_len(index) == ITEMS);
  FAILS(BAD, "active bit 500",
        cortex_sdr_index_top_k(index, active, 3, 1, &match, &len, &err));
  FAILS(BAD, "matches is NULL", cortex_sdr_index_top_k(index, active, 2, 1, NULL, &len, &err));
  FAILS(BAD, "matches", cortex_sdr_index_top_k(index, active, 2, SIZE_MAX, &match, &len, &err));
  FAILS(BAD, "matches_len is NULL",
        cortex_sdr_index_top_k(index, active, 2, 1, &match, NULL, &err));
  CHECK(match.id == 77 && match.overlap == 77 && len == 77);

  /* None of many, and the set of no bits, which shares nothing. */
  OK(cortex_sdr_index_top_k(index, active, 2, 0, NULL, &len, &err));
  CHECK(len == 0);
  OK(cortex_sdr_index_add(index, UINT64_MAX, NULL, 0, &err));
  len = 77;
  OK(cortex_sdr_index_get(index, UINT64_MAX, NULL, 0, &len, &err));
  CHECK(len == 0);
  OK(cortex_sdr_index_top_k(index, NULL, 0, 1, &match, &len, &err));
  CHECK(len == 0 && match.id == 77);
  OK(cortex_sdr_index_remove(index, UINT64_MAX, NULL, &err));
}

static void on_disk(const cortex_sdr_index *index) {
  const char *path = in_folder("\xc3\xa4hnlich.sdr"), *again = in_folder("again.sdr");
  OK(cortex_sdr_index_save(index, path, &err));
  CHECK(files_in_folder() == 1);
  cortex_sdr_index *loaded = NULL;
  OK(cortex_sdr_index_load(path, &loaded, &err));
  CHECK(cortex_sdr_index_bits(loaded) == BITS && cortex_sdr_index_len(loaded) == ITEMS);
  finds(loaded, UINT64_MAX);

  /* Saved over itself: the same bytes, though the items came in another order. */
  size_t len = 0, len_again = 0;
  unsigned char *bytes = read_file(path, &len);
  OK(cortex_sdr_index_save(loaded, path, &err));
  unsigned char *bytes_again = read_file(path, &len_again);
  CHECK(len == len_again && !memcmp(bytes, bytes_again, len));
  free(bytes_again);
  cortex_sdr_index_free(loaded);

  /* What cannot be saved leaves nothing, and what stood there stays. */
  FAILS(CORTEX_IO, "nowhere", cortex_sdr_index_save(index, in_folder("nowhere/x.sdr"), &err));
  FAILS(BAD, "folder", cortex_sdr_index_save(index, folder, &err));
  FAILS(BAD, "path is empty", cortex_sdr_index_save(index, "", &err));
  CHECK(files_in_folder() == 1);

  cortex_sdr_index *poison = (void *)&len;
  FAILS(CORTEX_IO, "again.sdr", cortex_sdr_index_load(again, &poison, &err));
  FAILS(BAD, "not a file", cortex_sdr_index_load(folder, &poison, &err));
  FAILS(BAD, "not UTF-8", cortex_sdr_index_load("a\xff", &poison, &err));
  for (size_t at = 0; at < len; at += 1 + at % 41) {
    bytes[at] ^= 0x10;
    write_file(again, bytes, len);
    cortex_status status = cortex_sdr_index_load(again, &poison, &err);
    /* The version stands in front of the checksum. */
    CHECK(status == (at / 4 == 2 ? CORTEX_UNSUPPORTED : CORTEX_CORRUPT));
    CHECK(err && strstr(cortex_error_message(err), "again.sdr"));
    cortex_error_free(err);
    err = NULL;
    bytes[at] ^= 0x10;
  }
  for (size_t cut = 0; cut < len; cut += 1 + len / 23) {
    write_file(again, bytes, cut);
    FAILS(CORTEX_CORRUPT, "again.sdr", cortex_sdr_index_load(again, &poison, &err));
  }
  CHECK(poison == (void *)&len);
  free(bytes);
}

int main(void) {
  make_folder();
  cortex_sdr_index *index = filled();
  reads_and_removes(index);
  edges_and_mistakes(index);
  on_disk(index);
  cortex_sdr_index_free(index);
  remove_folder();
  return report();
}
