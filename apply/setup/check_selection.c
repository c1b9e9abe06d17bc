/* Where the selection cuts through what belongs together. */
#include "apply/setup/check_internal.h"

static void
report_key(Check *check, const Outside *key)
{
	findings_add(check->findings, FINDING_WARNING, "foreign_key_outside",
	             check_text(check, "foreign key %s of %s", key->constraint, key->name),
	             check_text(check,
	                        "move %s with its rows, too; or, once its rows are on the target: "
	                        "ALTER TABLE %s ADD CONSTRAINT %s %s;",
	                        key->other, key->name, key->constraint, key->definition),
	             "it points to %s, which is not moved whole: it is left out on the target",
	             key->other);
}

static void
report(Check *check, const Outside *cut)
{
	switch (cut->kind) {
	case OUTSIDE_KEY:
		report_key(check, cut);
		break;
	case OUTSIDE_PARENT:
		findings_add(check->findings, FINDING_BLOCKER, "parent_outside",
		             check_text(check, "table %s", cut->name),
		             check_text(check, "choose %s, too, or leave %s out", cut->other, cut->name),
		             "it inherits from or is a partition of %s, which is not moved", cut->other);
		break;
	case OUTSIDE_PARTITION:
		findings_add(check->findings, FINDING_INFO, "partition_outside",
		             check_text(check, "partition %s", cut->other), NULL,
		             "it is left out, while %s is moved", cut->name);
		break;
	case OUTSIDE_VIEW:
		findings_add(
			check->findings, FINDING_BLOCKER, "view_outside",
			check_text(check, "view %s", cut->name),
			check_text(check, "--exclude-table '%s', or choose %s, too", cut->name, cut->other),
			"it reads %s, which is not moved: it cannot be created on the target", cut->other);
		break;
	}
}

void
check_selection(Check *check)
{
	const Catalog *catalog = check->catalog;
	int told[OUTSIDE_VIEW + 1] = {0};

	/* With the definitions there already nothing is created, nor left out. */
	if (catalog == NULL || !check->options->schema_copy)
		return;
	for (size_t i = 0; i < catalog->outside_count; i++) {
		const Outside *cut = &catalog->outside[i];
		if (told[cut->kind]++ < CHECK_CAP)
			report(check, cut);
		else
			findings_add(check->findings, FINDING_WARNING, "outside", "more", NULL,
			             "more than %d things that are moved depend on what is not", CHECK_CAP);
	}
}
