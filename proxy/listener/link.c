#include "proxy/listener/link.h"

#include <poll.h>

#include "common/bytes.h"
#include "protocol/message/message.h"

static LinkResult
opened(Link *link)
{
	link->phase = LINK_OPEN;
	link->channel->read_wants = POLLIN;
	return LINK_READY;
}

static LinkResult
handshake(Link *link, Error *err)
{
	switch (tls_handshake(link->channel, err)) {
	case TLS_STEP_DONE:
		tls_read_ahead(link->channel);
		return opened(link);
	case TLS_STEP_WAIT:
		return LINK_WAIT;
	case TLS_STEP_FAILED:
		break;
	}
	return LINK_FAILED;
}

static LinkResult
begin_handshake(Link *link, Error *err)
{
	link->phase = LINK_HANDSHAKE;
	tls_begin(link->channel, link->endpoint->tls, link->endpoint->host);
	return handshake(link, err);
}

/* The migration's own session to this server has TLS: without it nobody goes there. */
static LinkResult
ask_tls(Link *link, Error *err)
{
	Buffer request = BUFFER_INIT;

	message_put_ssl_request(&request);
	ssize_t n = link->channel->ops->write(link->channel, request.data, request.len, err);
	bool ok = n == (ssize_t)request.len;
	buffer_free(&request);
	if (!ok) {
		if (n >= 0) /* eight bytes into an empty socket */
			error_set(err, ERROR_NETWORK, "cannot send to the server");
		return LINK_FAILED;
	}
	link->phase = LINK_TLS_ASKED;
	link->channel->read_wants = POLLIN;
	return LINK_WAIT;
}

/* One byte, and not one more: what stands behind it came before the encryption
 * (CVE-2021-23222). */
static LinkResult
read_tls_answer(Link *link, Error *err)
{
	char answer = 0;
	ssize_t n = link->channel->ops->read(link->channel, &answer, 1, err);

	if (n == 0)
		return LINK_WAIT;
	if (n > 0 && answer == 'S')
		return begin_handshake(link, err);
	if (n > 0)
		error_set(err, ERROR_NETWORK, "the server does not offer TLS any more");
	return LINK_FAILED;
}

static LinkResult
connected(Link *link, Error *err)
{
	if (link->endpoint->tls == NULL)
		return opened(link);
	return tls_config_direct(link->endpoint->tls) ? begin_handshake(link, err) : ask_tls(link, err);
}

LinkResult
link_begin(Link *link, Channel *channel, const Endpoint *endpoint, Error *err)
{
	bool done;

	*link = (Link){.channel = channel, .endpoint = endpoint, .phase = LINK_CONNECTING};
	if (!channel_begin(channel, &endpoint->address, endpoint->info, &done, err))
		return LINK_FAILED;
	if (done)
		return connected(link, err);
	channel->read_wants = POLLOUT;
	return LINK_WAIT;
}

LinkResult
link_step(Link *link, Error *err)
{
	switch (link->phase) {
	case LINK_CONNECTING:
		return channel_connected(link->channel, link->endpoint->info, err) ? connected(link, err)
		                                                                   : LINK_FAILED;
	case LINK_TLS_ASKED:
		return read_tls_answer(link, err);
	case LINK_HANDSHAKE:
		return handshake(link, err);
	case LINK_OPEN:
		break;
	}
	return LINK_READY;
}
