/* How a machine's memory gets there: decided from what is known when it is handed over. Pure. */
#ifndef SNAPSTART_CHOOSE_H
#define SNAPSTART_CHOOSE_H

#include <stdbool.h>
#include <stdint.h>

#define CHOOSE_AROUND_PAGES 16 /* with a demand fault: 64 KiB, the page and what follows it */

enum method {
        METHOD_DEMAND, /* every page when it is asked for */
        METHOD_INSTALL_BEFORE, /* the working set before the guest resumes, by copying */
        METHOD_INSTALL_WHILE, /* the working set while it runs, in recorded order */
        METHOD_SHARE_BEFORE, /* before: read pages by CONTINUE, written ones by copying */
};

struct choose_facts {
        bool can_share; /* the monitor maps the image's memfd privately, with minor faults */
        bool is_recording; /* what this machine touches is written down */
        bool is_in_line; /* others' working sets are installed first */
        bool has_working_set;
        double recall; /* of the working set, 0 to 1; below 0 if not known */
        double image_resident; /* of the working set's pages in the image, 0 to 1: in the page cache */
        double data_resident; /* of the working set's own file */
        uint64_t working_set_pages;
};

struct choice {
        enum method method;
        bool from_data; /* copy from the working set's file, not from the image */
        unsigned fault_around_pages; /* with a demand fault outside the working set, the page itself among them */
        const char *why; /* static text for the log and for people */
};

/* Returns the best measured method for a case (docs/memory.md has the table). */
struct choice choose_method(const struct choose_facts *facts);

/* Returns a word for a method: "demand", "install-before", "install-while", "share-before". */
const char *method_name(enum method method);

#endif
