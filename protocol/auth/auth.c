#include "protocol/auth/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/md5.h"
#include "protocol/auth/scram.h"
#include "protocol/message/message.h"

/* The methods of require_auth, as bits. */
enum {
	METHOD_NONE = 1 << 0, /* the server asked for nothing (trust, peer, cert) */
	METHOD_PASSWORD = 1 << 1,
	METHOD_MD5 = 1 << 2,
	METHOD_GSS = 1 << 3,
	METHOD_SSPI = 1 << 4,
	METHOD_SCRAM = 1 << 5,
	METHOD_OAUTH = 1 << 6,
	METHOD_ALL = (1 << 7) - 1,
};

static const struct {
	const char *name;
	unsigned bit;
} methods[] = {
	{"none", METHOD_NONE},   {"password", METHOD_PASSWORD}, {"md5", METHOD_MD5},
	{"gss", METHOD_GSS},     {"sspi", METHOD_SSPI},         {"scram-sha-256", METHOD_SCRAM},
	{"oauth", METHOD_OAUTH},
};

/*
 *   START --Ok--------------------------------------------> DONE
 *   START --Cleartext, MD5--> PASSWORD_SENT --Ok----------> DONE
 *   START --SASL--> SCRAM_FIRST --SASLContinue--> SCRAM_FINAL
 *         --SASLFinal, signature right--> SCRAM_PROVEN --Ok--> DONE
 */
typedef enum {
	STATE_START,
	STATE_PASSWORD_SENT,
	STATE_SCRAM_FIRST,
	STATE_SCRAM_FINAL,
	STATE_SCRAM_PROVEN,
	STATE_DONE
} State;

typedef enum { BINDING_DISABLE, BINDING_PREFER, BINDING_REQUIRE } Binding;

struct Auth {
	AuthOptions options;
	State state;
	Binding binding;
	bool bound; /* SCRAM-SHA-256-PLUS was used */
	unsigned allowed;
	Scram *scram;
};

static unsigned
method_bit(Slice name)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (slice_eq_cstr(name, methods[i].name))
			return methods[i].bit;
	return 0;
}

static bool
parse_require_auth(const char *text, unsigned *allowed, Error *err)
{
	unsigned named = 0;
	int negated = -1; /* not known yet */

	*allowed = METHOD_ALL;
	if (text == NULL || text[0] == '\0')
		return true;
	while (true) {
		size_t len = strcspn(text, ",");
		Slice name = slice_of(text, len);
		int inverted = len > 0 && text[0] == '!';
		if (inverted)
			name = slice_of(text + 1, len - 1);
		unsigned bit = method_bit(name);
		if (bit == 0)
			return error_set(err, ERROR_CONFIG, "require_auth names an unknown method");
		if (negated >= 0 && negated != inverted)
			return error_set(err, ERROR_CONFIG,
			                 "require_auth cannot mix methods with and without \"!\"");
		negated = inverted;
		named |= bit;
		if (text[len] == '\0')
			break;
		text += len + 1;
	}
	*allowed = negated ? METHOD_ALL & ~named : named;
	return true;
}

static bool
parse_binding(const char *text, Binding *out, Error *err)
{
	if (text == NULL || text[0] == '\0' || strcmp(text, "prefer") == 0)
		*out = BINDING_PREFER;
	else if (strcmp(text, "disable") == 0)
		*out = BINDING_DISABLE;
	else if (strcmp(text, "require") == 0)
		*out = BINDING_REQUIRE;
	else
		return error_set(err, ERROR_CONFIG, "channel_binding must be disable, prefer or require");
	return true;
}

Auth *
auth_new(const AuthOptions *options, Error *err)
{
	Auth *auth = mem_zalloc(sizeof(Auth));

	auth->options = *options;
	if (!parse_require_auth(options->require_auth, &auth->allowed, err) ||
	    !parse_binding(options->channel_binding, &auth->binding, err)) {
		auth_free(auth);
		return NULL;
	}
	return auth;
}

void
auth_free(Auth *auth)
{
	if (auth == NULL)
		return;
	scram_free(auth->scram);
	free(auth);
}

/* What both require_auth and channel_binding say to a method asked for. */
static bool
method_allowed(const Auth *auth, unsigned bit, const char *name, Error *err)
{
	if ((auth->allowed & bit) == 0)
		return error_set(err, ERROR_AUTH,
		                 "the server asks for %s authentication, which "
		                 "require_auth does not allow",
		                 name);
	if (auth->binding == BINDING_REQUIRE && bit != METHOD_SCRAM)
		return error_set(err, ERROR_AUTH,
		                 "channel binding is required, but the server asks for %s "
		                 "authentication",
		                 name);
	return true;
}

/* What a method needs: the password, or the secret that the server keeps for it. */
static bool
need_secret(const Auth *auth, unsigned bit, const char *name, Error *err)
{
	const AuthOptions *o = &auth->options;

	if ((bit == METHOD_SCRAM && o->scram_keys != NULL) ||
	    (bit == METHOD_MD5 && o->md5_secret != NULL))
		return true;
	if (o->scram_keys != NULL || o->md5_secret != NULL) {
		error_set(err, ERROR_AUTH,
		          "the server asks for %s authentication, which the role's stored secret "
		          "cannot answer",
		          name);
		return error_set_hint(err, "let pg_hba.conf ask for scram-sha-256 (md5 for roles with an "
		                           "md5 secret) from this host, or put the role into --auth-file");
	}
	if (auth->options.password != NULL && auth->options.password[0] != '\0')
		return true;
	error_set(err, ERROR_AUTH, "the server asks for a password, and none is given");
	return error_set_hint(err, "put it into the password file (~/.pgpass) or PGPASSWORD");
}

static bool
answer_md5(const Auth *auth, Slice salt, Buffer *reply, Error *err)
{
	char inner[33], answer[3 + 33] = "md5";

	if (salt.len != 4)
		return error_set(err, ERROR_PROTOCOL, "the server's md5 request is malformed");
	bool ok = true;
	if (auth->options.md5_secret != NULL)
		memcpy(inner, auth->options.md5_secret, sizeof(inner));
	else
		ok = md5_hex(slice_cstr(auth->options.password), slice_cstr(auth->options.user), inner);
	ok = ok && md5_hex(slice_of(inner, 32), salt, answer + 3);
	if (ok)
		message_put_password(reply, answer);
	else
		error_set(err, ERROR_AUTH, "OpenSSL refuses to compute md5 (FIPS mode?)");
	mem_wipe(inner, sizeof(inner));
	mem_wipe(answer, sizeof(answer));
	return ok;
}

/* Which of the mechanisms offered; false on a malformed list. */
static bool
read_mechanisms(Slice list, bool *plain, bool *plus)
{
	ByteReader r = reader_of(list);

	*plain = *plus = false;
	for (;;) {
		const char *name = read_cstr(&r);
		if (r.failed)
			return false;
		if (name[0] == '\0')
			return reader_done(&r);
		*plain |= strcmp(name, "SCRAM-SHA-256") == 0;
		*plus |= strcmp(name, "SCRAM-SHA-256-PLUS") == 0;
	}
}

static bool
choose_binding(const Auth *auth, bool plain, bool plus, ScramBinding *out, Error *err)
{
	bool able = auth->options.tls && auth->options.binding_data.len > 0 &&
	            auth->binding != BINDING_DISABLE;

	if (plus && !auth->options.tls)
		return error_set(err, ERROR_AUTH,
		                 "the server offers SCRAM-SHA-256-PLUS on a connection "
		                 "without TLS");
	if (plus && able)
		*out = SCRAM_BIND_TLS;
	else if (auth->binding == BINDING_REQUIRE)
		return error_set(err, ERROR_AUTH,
		                 auth->options.tls
		                     ? "channel binding is required, but the server does not offer it"
		                     : "channel binding is required, but the connection has no TLS");
	else if (plain)
		*out = able ? SCRAM_BIND_NOT_OFFERED : SCRAM_BIND_UNSUPPORTED;
	else
		return error_set(err, ERROR_AUTH,
		                 "the server offers no SASL mechanism that is supported here");
	return true;
}

static bool
start_sasl(Auth *auth, Slice list, Buffer *reply, Error *err)
{
	bool plain, plus;
	ScramBinding binding = SCRAM_BIND_UNSUPPORTED;

	if (!read_mechanisms(list, &plain, &plus))
		return error_set(err, ERROR_PROTOCOL, "the server's list of SASL mechanisms is malformed");
	if (!choose_binding(auth, plain, plus, &binding, err) ||
	    !method_allowed(auth, METHOD_SCRAM, "SCRAM", err) ||
	    !need_secret(auth, METHOD_SCRAM, "SCRAM", err))
		return false;

	auth->bound = binding == SCRAM_BIND_TLS;
	auth->scram = scram_new(&(ScramOptions){.user = "",
	                                        .password = auth->options.password,
	                                        .keys = auth->options.scram_keys,
	                                        .binding = binding,
	                                        .binding_data = auth->options.binding_data,
	                                        .nonce = auth->options.nonce},
	                        err);
	if (auth->scram == NULL)
		return false;
	Buffer first = BUFFER_INIT;
	scram_first(auth->scram, &first);
	message_put_sasl_initial(reply, auth->bound ? "SCRAM-SHA-256-PLUS" : "SCRAM-SHA-256",
	                         buffer_slice(&first));
	buffer_free(&first);
	auth->state = STATE_SCRAM_FIRST;
	return true;
}

static bool
continue_sasl(Auth *auth, Slice data, Buffer *reply, Error *err)
{
	Buffer answer = BUFFER_INIT;

	bool ok = scram_continue(auth->scram, data, &answer, err);
	if (ok) {
		message_put_sasl_response(reply, buffer_slice(&answer));
		auth->state = STATE_SCRAM_FINAL;
	}
	buffer_free(&answer);
	return ok;
}

static bool
accept_ok(Auth *auth, Error *err)
{
	if (auth->state == STATE_SCRAM_FIRST || auth->state == STATE_SCRAM_FINAL)
		return error_set(err, ERROR_AUTH,
		                 "the server let us in without proving that it knows the password");
	if (auth->state == STATE_START && !method_allowed(auth, METHOD_NONE, "no", err))
		return false;
	if (auth->binding == BINDING_REQUIRE && !auth->bound)
		return error_set(err, ERROR_AUTH, "channel binding is required, but was not used");
	auth->state = STATE_DONE;
	return true;
}

static bool
refuse(const Auth *auth, uint32_t code, Error *err)
{
	const char *name = code == 2 ? "Kerberos" : code == 7 ? "GSSAPI" : code == 9 ? "SSPI" : NULL;

	(void)auth;
	if (name == NULL)
		return error_set(err, ERROR_AUTH,
		                 "the server asks for authentication method %u, which is unknown here",
		                 code);
	error_set(err, ERROR_AUTH, "the server asks for %s authentication, which is not supported",
	          name);
	return error_set_hint(err, "let pg_hba.conf ask for scram-sha-256 from this host");
}

static bool
start_password(Auth *auth, uint32_t code, Slice rest, Buffer *reply, Error *err)
{
	bool md5 = code == 5;
	unsigned bit = md5 ? METHOD_MD5 : METHOD_PASSWORD;
	const char *name = md5 ? "md5" : "cleartext password";

	if (!method_allowed(auth, bit, name, err) || !need_secret(auth, bit, name, err))
		return false;
	auth->state = STATE_PASSWORD_SENT;
	if (md5)
		return answer_md5(auth, rest, reply, err);
	message_put_password(reply, auth->options.password);
	return true;
}

AuthStep
auth_step(Auth *auth, Slice payload, Buffer *reply, Error *err)
{
	ByteReader r = reader_of(payload);
	uint32_t code = read_u32(&r);
	Slice rest = read_bytes(&r, reader_left(&r));
	bool ok;

	if (r.failed || ((code == 0 || code == 3) && rest.len != 0)) {
		error_set(err, ERROR_PROTOCOL, "the server's authentication message is malformed");
		return AUTH_FAILED;
	}
	if (auth->state == STATE_DONE) {
		error_set(err, ERROR_PROTOCOL, "the server goes on authenticating after it has ended");
		return AUTH_FAILED;
	}
	if (code == 0)
		return accept_ok(auth, err) ? AUTH_DONE : AUTH_FAILED;
	if ((code == 3 || code == 5) && auth->state == STATE_START)
		ok = start_password(auth, code, rest, reply, err);
	else if (code == 10 && auth->state == STATE_START)
		ok = start_sasl(auth, rest, reply, err);
	else if (code == 11 && auth->state == STATE_SCRAM_FIRST)
		ok = continue_sasl(auth, rest, reply, err);
	else if (code == 12 && auth->state == STATE_SCRAM_FINAL) {
		ok = scram_finish(auth->scram, rest, err);
		auth->state = STATE_SCRAM_PROVEN;
	} else if (code == 3 || code == 5 || (code >= 10 && code <= 12))
		ok = error_set(err, ERROR_PROTOCOL,
		               "the server sent authentication message %u out of order", code);
	else
		ok = refuse(auth, code, err);
	return ok ? AUTH_CONTINUE : AUTH_FAILED;
}
