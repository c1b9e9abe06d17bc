#include <string.h>

#include "decoder/receiver/internal.h"

/*
 * P6: the end LSN of a transaction that is durable here, and where that is asked for on the
 * target, too: so a slot that stands beyond the log was moved by somebody else.
 * When nothing is open and all that came is durable, the position of the last
 * keepalive too: the server has sent everything before it, and an idle database
 * would otherwise hold back the WAL of its busy neighbours. A keepalive inside
 * a transaction is not taken, and while anything is not durable none counts.
 */
Lsn
confirm_position(const ConfirmInput *input)
{
	Lsn durable = input->mode == CONFIRM_LOGGED ? input->synced_end
	                                            : lsn_min(input->applied_end, input->synced_end);
	bool nothing_pending = !input->open && lsn_cmp(durable, input->last_end) >= 0;

	if (input->mode == CONFIRM_LOGGED && !input->all_synced)
		nothing_pending = false;
	return nothing_pending ? lsn_max(durable, input->keepalive_end) : durable;
}

static bool
has_class(const Error *err, const char *class)
{
	return strncmp(err->sqlstate, class, 2) == 0;
}

bool
receiver_can_retry(const Error *err, bool was_connected)
{
	/* 55006: the old walsender has not noticed yet that we are gone. */
	static const char *const passing[] = {"55006", "57P01", "57P02", "57P03", "53300"};

	switch (err->class) {
	case ERROR_NETWORK:
	case ERROR_TIMEOUT:
		return true;
	case ERROR_AUTH:
		return was_connected;
	case ERROR_SQL:
		for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++)
			if (error_has_sqlstate(err, passing[i]))
				return true;
		return has_class(err, "08") || (has_class(err, "28") && was_connected);
	default:
		return false;
	}
}
