/* Every case has its method, with a sentence that says why. */
#include <string.h>

#include "check.h"
#include "choose.h"

struct row {
        const char *name;
        struct choose_facts facts;
        enum method method;
        bool from_data;
        unsigned fault_around_pages;
        const char *says; /* part of why */
};

/* What is the same in most rows: a good working set. */
#define SET .has_working_set = true, .working_set_pages = 8000, .recall = 0.97
#define LOW .has_working_set = true, .working_set_pages = 8000, .recall = 0.6
#define WARM .image_resident = 1, .data_resident = 1
#define COLD .image_resident = 0, .data_resident = 0

static const struct row rows[] = {
        { "recording asks for every page", { .is_recording = true, WARM }, METHOD_DEMAND, false, 1, "recorded" },
        { "recording anew, beside a working set", { .is_recording = true, SET, WARM },
          METHOD_DEMAND, false, 1, "recorded" },
        { "recording on shared memory", { .is_recording = true, .can_share = true, SET, WARM },
          METHOD_DEMAND, false, 1, "by itself" },
        { "nothing recorded, warm", { WARM }, METHOD_DEMAND, false, 16, "nothing was recorded" },
        { "nothing recorded, cold", { COLD }, METHOD_DEMAND, false, 16, "nothing was recorded" },
        { "nothing recorded, shared memory", { .can_share = true, WARM },
          METHOD_DEMAND, false, 16, "nothing was recorded" },
        { "an empty working set is none", { .has_working_set = true, .recall = 1, WARM },
          METHOD_DEMAND, false, 16, "nothing was recorded" },
        { "shared memory", { .can_share = true, SET, WARM }, METHOD_SHARE_BEFORE, false, 16, "written ones copied" },
        { "shared memory that was swapped out", { .can_share = true, SET, COLD },
          METHOD_SHARE_BEFORE, false, 16, "written ones copied" },
        { "shared memory, little recorded", { .can_share = true, LOW, WARM },
          METHOD_SHARE_BEFORE, false, 16, "much is not recorded" },
        { "warm", { SET, WARM }, METHOD_INSTALL_BEFORE, false, 16, "copied from the image before it resumes" },
        { "warm, recall unknown", { .has_working_set = true, .working_set_pages = 1, .recall = -1, WARM },
          METHOD_INSTALL_BEFORE, false, 16, "copied from the image before it resumes" },
        { "warm, little recorded", { LOW, WARM }, METHOD_INSTALL_BEFORE, false, 16, "much is not recorded" },
        { "warm but for a few", { SET, .image_resident = 0.95 },
          METHOD_INSTALL_BEFORE, false, 16, "copied from the image" },
        { "a tenth is missing", { SET, .image_resident = 0.9 }, METHOD_INSTALL_WHILE, true, 16, "read in one go" },
        { "cold", { SET, COLD }, METHOD_INSTALL_WHILE, true, 16, "while it runs" },
        { "cold, others come first", { SET, COLD, .is_in_line = true },
          METHOD_INSTALL_BEFORE, true, 16, "other machines' come first" },
        { "warm, others come first", { SET, WARM, .is_in_line = true },
          METHOD_INSTALL_BEFORE, false, 16, "copied from the image before it resumes" },
        { "cold, little recorded", { LOW, COLD }, METHOD_INSTALL_WHILE, true, 16, "while it runs" },
        { "cold image, its working set was just read", { SET, .image_resident = 0, .data_resident = 1 },
          METHOD_INSTALL_BEFORE, true, 16, "working set's file in memory" },
        { "cold image, half of the file was read", { SET, .image_resident = 0, .data_resident = 0.5 },
          METHOD_INSTALL_WHILE, true, 16, "while it runs" },
};

static void check_row(const struct row *row)
{
        struct choice choice = choose_method(&row->facts);

        if (choice.method == row->method && choice.from_data == row->from_data &&
            choice.fault_around_pages == row->fault_around_pages && strstr(choice.why, row->says))
                return;
        fprintf(stderr, "%s: %s, from data %d, %u pages around: %s\n", row->name, method_name(choice.method),
                choice.from_data, choice.fault_around_pages, choice.why);
        exit(1);
}

/* What is recorded must be what the guest asked for: whatever else is known, no page comes unasked. */
static void test_recording_installs_nothing_unasked(void)
{
        for (unsigned bits = 0; bits < 16; bits++) {
                struct choose_facts facts = {
                        .is_recording = true,
                        .can_share = bits & 1,
                        .has_working_set = bits & 2,
                        .working_set_pages = bits & 2 ? 100 : 0,
                        .recall = 1,
                        .image_resident = bits & 4 ? 1 : 0,
                        .data_resident = bits & 8 ? 1 : 0,
                };
                struct choice choice = choose_method(&facts);

                CHECK_EQ(choice.method, METHOD_DEMAND);
                CHECK_EQ(choice.fault_around_pages, 1);
        }
}

static void test_methods_have_their_words(void)
{
        CHECK(strcmp(method_name(METHOD_DEMAND), "demand") == 0);
        CHECK(strcmp(method_name(METHOD_INSTALL_BEFORE), "install-before") == 0);
        CHECK(strcmp(method_name(METHOD_INSTALL_WHILE), "install-while") == 0);
        CHECK(strcmp(method_name(METHOD_SHARE_BEFORE), "share-before") == 0);
}

int main(void)
{
        for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
                check_row(&rows[i]);
        test_recording_installs_nothing_unasked();
        test_methods_have_their_words();
        return 0;
}
