#include "choose.h"

/* Below it a page that is missing here and there costs more than one sequential read of the working set's
 * file: a page read by itself takes some 65 us, the whole file about 13 ms, so that 200 of 5,000 missing
 * pages are even. */
#define WARM 0.95
/* With less than this of what a machine touches, faults outside the working set are most of the cost. */
#define GOOD_RECALL 0.8
/* 64 KiB with a fault: 1.5 times as fast as single pages where 30 % of the touches are not recorded.
 * 256 KiB was slower again and took 2.5 times the memory. */

static struct choice on_demand(unsigned fault_around_pages, const char *why)
{
        return (struct choice){
                .method = METHOD_DEMAND,
                .fault_around_pages = fault_around_pages,
                .why = why,
        };
}

static struct choice installed(enum method method, bool from_data, const char *why)
{
        return (struct choice){
                .method = method,
                .from_data = from_data,
                .fault_around_pages = CHOOSE_AROUND_PAGES,
                .why = why,
        };
}

static bool is_low(double recall)
{
        return recall >= 0 && recall < GOOD_RECALL;
}

static struct choice share(const struct choose_facts *facts)
{
        return installed(METHOD_SHARE_BEFORE, false,
                         is_low(facts->recall) ?
                                 "the monitor maps the image's memory: recorded pages are shared or copied before it "
                                 "resumes; much is not recorded and comes on demand, 64 KiB at a time" :
                                 "the monitor maps the image's memory: recorded pages are shared, written ones copied, "
                                 "before it resumes");
}

static struct choice copy_warm_image(const struct choose_facts *facts)
{
        return installed(METHOD_INSTALL_BEFORE, false,
                         is_low(facts->recall) ?
                                 "the recorded pages are in memory: copied from the image before it resumes; much is "
                                 "not recorded and comes on demand, 64 KiB at a time" :
                                 "the recorded pages are in memory: copied from the image before it resumes");
}

struct choice choose_method(const struct choose_facts *facts)
{
        if (facts->is_recording)
                return on_demand(1, "what it touches is recorded: each page is asked for by itself");
        if (!facts->has_working_set || facts->working_set_pages == 0)
                return on_demand(CHOOSE_AROUND_PAGES, "nothing was recorded of this image: on demand, 64 KiB at a time");
        if (facts->can_share)
                return share(facts);
        if (facts->image_resident >= WARM)
                return copy_warm_image(facts);
        if (facts->data_resident >= WARM)
                return installed(METHOD_INSTALL_BEFORE, true,
                                 "the image is on disk, the working set's file in memory: copied from that file "
                                 "before it resumes");
        if (facts->is_in_line)
                return installed(METHOD_INSTALL_BEFORE, true,
                                 "the recorded pages are on disk, and other machines' come first: the working set's "
                                 "file is read in one go and copied before it resumes");
        return installed(METHOD_INSTALL_WHILE, true,
                         "the recorded pages are on disk: the working set's file is read in one go and copied while "
                         "it runs");
}

const char *method_name(enum method method)
{
        static const char *const names[] = {
                [METHOD_DEMAND] = "demand",
                [METHOD_INSTALL_BEFORE] = "install-before",
                [METHOD_INSTALL_WHILE] = "install-while",
                [METHOD_SHARE_BEFORE] = "share-before",
        };

        return names[method];
}
