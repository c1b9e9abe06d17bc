/*
 * The walsender sends each message as a packet of its own, and on a busy machine each packet
 * wakes the receiver: at the full rate of a backlog that costs both of them more than the work,
 * and the applier behind gets transactions one by one instead of in batches. So while what
 * comes was committed a while ago, the kernel is asked to wake the receiver only when there is a
 * piece worth it (SO_RCVLOWAT, tcp(7), socket(7)). What is less waits for a timer: an eighth of what
 * its transactions are late already, 30 ms at most.
 *
 * Late by the source's own clock, on both ends: ours may differ. A socket that does not know the
 * option wakes as always.
 */
#include <sys/socket.h>

#include "decoder/receiver/internal.h"

enum { BEHIND_US = 100 * 1000, LOW_WATER_BYTES = 512 * 1024, LOW_WATER_MS = 30, SHARE = 8 };

void
backlog_begin(Backlog *backlog, int64_t commit_us, int64_t sent_us)
{
	int64_t late_us = sent_us - commit_us;

	backlog->behind = late_us > BEHIND_US;
	if (backlog->behind)
		backlog->wait_ms = late_us / 1000 / SHARE < LOW_WATER_MS ? late_us / 1000 / SHARE
		                                                         : LOW_WATER_MS;
}

void
backlog_turn(Backlog *backlog, int socket, bool received)
{
	/* What is below the mark at the end comes with the timer's turn, and this is the next. */
	backlog->behind = backlog->behind && received;
	backlog->settling = false;
	if (backlog->behind == backlog->set)
		return;
	int bytes = backlog->behind ? LOW_WATER_BYTES : 1;
	if (setsockopt(socket, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)) != 0)
		return;
	backlog->set = backlog->behind;
	/* Before 4.18 the kernel does not tell of what came before the mark was taken away. */
	backlog->settling = !backlog->set;
}

int64_t
backlog_wait_ms(const Backlog *backlog, int64_t next_ms)
{
	bool soon = backlog->set || backlog->settling;

	return soon && next_ms > backlog->wait_ms ? backlog->wait_ms : next_ms;
}
