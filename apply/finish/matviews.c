#include <string.h>

#include "apply/schema/target.h"

/* Our sessions have no search_path, as REFRESH itself has from 17 on. A view whose
 * functions lean on the database's own path worked on an older source and works here
 * with that path. */
static bool
refresh_with_default_path(Sql *target, const char *qualified, Error *err)
{
	bool ok = sql_exec(target, err, "SET search_path TO DEFAULT") &&
	          sql_execf(target, err, "REFRESH MATERIALIZED VIEW %s", qualified);
	Error reset = ERROR_INIT;

	if (sql_exec(target, &reset, "SET search_path = ''"))
		return ok;
	if (ok)
		*err = reset;
	return false;
}

static bool
undefined_name(const Error *err)
{
	return error_has_sqlstate(err, "42P01") || error_has_sqlstate(err, "42883") ||
	       error_has_sqlstate(err, "42704");
}

static bool
refresh(Sql *target, const char *qualified, Error *err)
{
	Error first = ERROR_INIT;

	if (sql_execf(target, &first, "REFRESH MATERIALIZED VIEW %s", qualified) ||
	    (undefined_name(&first) && refresh_with_default_path(target, qualified, &first)))
		return sql_execf(target, err, "ANALYZE %s", qualified);
	*err = first;
	return false;
}

bool
target_refresh_matviews(Sql *target, const Catalog *catalog, Error *err)
{
	for (size_t i = 0; i < catalog->matview_count; i++) {
		const char *qualified = catalog->matviews[i].qualified;
		if (!refresh(target, qualified, err))
			return error_add_context(err, "materialized view %s", qualified);
	}
	return true;
}
