/* SPDX-License-Identifier: Apache-2.0
 * Checks of the C99 program: each prints what failed and counts it. */
#ifndef PSA_TESTS_CAPI_CHECK_H_
#define PSA_TESTS_CAPI_CHECK_H_

#include <psa/psa.h>
#include <stdio.h>
#include <string.h>

extern int failed_checks;

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      ++failed_checks;                                                        \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                         \
  } while (0)

#define CHECK_OK(call)                                                                            \
  do {                                                                                            \
    const psa_status given = (call);                                                              \
    if (given != PSA_OK) {                                                                        \
      ++failed_checks;                                                                            \
      fprintf(stderr, "%s:%d: %s: %d, %s\n", __FILE__, __LINE__, #call, given, psa_last_error()); \
    }                                                                                             \
  } while (0)

/* The call fails with `status` and a message that contains `text`. */
#define CHECK_ERROR(call, status, text)                                                          \
  do {                                                                                           \
    const psa_status given = (call);                                                             \
    if (given != (status) || strstr(psa_last_error(), (text)) == NULL) {                         \
      ++failed_checks;                                                                           \
      fprintf(stderr, "%s:%d: %s: %d, \"%s\"; expected %d, \"%s\"\n", __FILE__, __LINE__, #call, \
              given, psa_last_error(), (status), (text));                                        \
    }                                                                                            \
  } while (0)

#endif /* PSA_TESTS_CAPI_CHECK_H_ */
