/* CHECK: what must hold inside the core. In checked and asan builds a broken rule ends the process with its
 * place; in release builds it costs nothing. Cython has no macro, and an assert inside a noexcept function would be
 * swallowed: so it is C. */
#ifndef FAIRLEAD_H
#define FAIRLEAD_H

#include <stdio.h>
#include <stdlib.h>

#ifndef FAIRLEAD_CHECKS
#define FAIRLEAD_CHECKS 0
#endif

#if FAIRLEAD_CHECKS
#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: broken rule: %s\n", __FILE__, __LINE__, #condition);       \
            abort();                                                                           \
        }                                                                                      \
    } while (0)
#else
#define CHECK(condition) ((void)0)
#endif

/* Start loading a line that will be needed soon; a wrong address does no harm. */
#define PREFETCH(address) __builtin_prefetch((address), 1)

#endif
