/* The measured frequency is that of a real counter, the same each time. */
#include "check.h"
#include "tsc.h"

#include <errno.h>
#include <stdint.h>

static void test_two_measurements_agree_within_the_tolerance_of_templates(void)
{
        uint64_t first = 0, second = 0, difference;

        CHECK_EQ(tsc_measure(20000000, &first), 0);
        CHECK_EQ(tsc_measure(20000000, &second), 0);
        difference = first > second ? first - second : second - first;
        CHECK(first > 100000 && first < 20000000);
        CHECK(difference * 1000 < first);
}

static void test_a_window_that_is_not_positive_is_refused_and_the_output_untouched(void)
{
        uint64_t khz = 7;

        CHECK_EQ(tsc_measure(0, &khz), -EINVAL);
        CHECK_EQ(tsc_measure(-1, &khz), -EINVAL);
        CHECK_EQ(khz, 7);
}

int main(void)
{
#ifdef __x86_64__
        test_two_measurements_agree_within_the_tolerance_of_templates();
#endif
        test_a_window_that_is_not_positive_is_refused_and_the_output_untouched();
        return 0;
}
