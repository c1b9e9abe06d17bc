/*
 * How the defaults are found: libpq itself is asked, through a connection that
 * it refuses to begin. PQconnectStart resolves service file, environment,
 * compiled-in defaults and the password file's line for the first host, and
 * only then checks channel_binding (or sslmode); with a value that cannot be,
 * it stops there, before any socket. PQconninfo, PQhost, PQport and PQpass of
 * that object are then exactly what libpq would have used. Rejected: parsers
 * of our own for pg_service.conf and .pgpass, which would drift from libpq's.
 */
#include "protocol/conninfo.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "protocol/conninfo_text.h"

static const char no_connection[] = "@pgbaton-asks-only@";

typedef struct {
	char *keyword;
	char *value; /* NULL: none */
	bool libpq;  /* the installed libpq knows it */
} Item;

typedef struct {
	char *host;
	char *hostaddr;
	char *port;
	char *password;
} Host;

struct ConnInfo {
	Item *items;
	size_t item_count;
	Host *hosts;
	size_t host_count;
	char *display;
};

static Item *
find_item(const ConnInfo *info, const char *keyword)
{
	for (size_t i = 0; i < info->item_count; i++)
		if (strcmp(info->items[i].keyword, keyword) == 0)
			return &info->items[i];
	return NULL;
}

static void
set_item(ConnInfo *info, const char *keyword, const char *value, bool libpq)
{
	Item *item = find_item(info, keyword);
	char *copy = value != NULL ? mem_strdup(value) : NULL;

	if (item == NULL) {
		info->items = mem_realloc(info->items, (info->item_count + 1) * sizeof(Item));
		item = &info->items[info->item_count++];
		*item = (Item){.keyword = mem_strdup(keyword), .libpq = libpq};
	}
	mem_wipe_free_cstr(item->value);
	item->value = copy;
}

static void
take_new_keyword(void *arg, const char *keyword, const char *value)
{
	set_item(arg, keyword, value, false);
}

/* False unless libpq stopped where we wanted it to stop. */
static bool
asked_only(PGconn *conn, Error *err)
{
	CHECK(conn != NULL && PQstatus(conn) == CONNECTION_BAD);
	const char *why = PQerrorMessage(conn);
	if (strstr(why, no_connection) != NULL)
		return true;
	/* Service file, numbers of hosts and ports, ...: no secrets in these. */
	return error_set(err, ERROR_CONFIG, "%.*s", (int)strcspn(why, "\n"), why);
}

static bool
load_defaults(ConnInfo *info, const char *text, Error *err)
{
	/* The string is expanded from dbname; what follows it wins. An all-blank
	 * string would be taken for a database's name. */
	const char *string = text[strspn(text, " \t\r\n\v\f")] != '\0' ? text : "";
	const char *const values[] = {string, no_connection, NULL};
	PGconn *all = PQconnectStartParams((const char *const[]){"dbname", "channel_binding", NULL},
	                                   values, 1);
	PGconn *rest = PQconnectStartParams((const char *const[]){"dbname", "sslmode", NULL}, values,
	                                    1);
	bool ok = asked_only(all, err) && asked_only(rest, err);

	if (ok) {
		PQconninfoOption *options = PQconninfo(all);
		PQconninfoOption *others = PQconninfo(rest);
		CHECK(options != NULL && others != NULL);
		for (size_t i = 0; options[i].keyword != NULL; i++) {
			bool lost = strcmp(options[i].keyword, "channel_binding") == 0;
			const char *value = lost ? others[i].val : options[i].val;
			set_item(info, options[i].keyword, value, true);
		}
		PQconninfoFree(options);
		PQconninfoFree(others);
	}
	PQfinish(all);
	PQfinish(rest);
	return ok;
}

static void
load_new_defaults(ConnInfo *info)
{
	for (const NewKeyword *k = conninfo_new_keywords; k->keyword != NULL; k++) {
		const Item *item = find_item(info, k->keyword);
		if (item == NULL)
			set_item(info, k->keyword, getenv(k->envvar), false);
	}
}

static void
free_hosts(ConnInfo *info)
{
	for (size_t i = 0; i < info->host_count; i++) {
		free(info->hosts[i].host);
		free(info->hosts[i].hostaddr);
		free(info->hosts[i].port);
		mem_wipe_free_cstr(info->hosts[i].password);
	}
	free(info->hosts);
	free(info->display);
	info->hosts = NULL;
	info->host_count = 0;
	info->display = NULL;
}

static size_t
list_count(const char *list)
{
	size_t count = 1;

	for (; *list != '\0'; list++)
		count += *list == ',';
	return count;
}

/* Element `index` of a comma-separated list; empty when there is none. */
static char *
list_get(const char *list, size_t index)
{
	for (; index > 0; index--) {
		list += strcspn(list, ",");
		if (*list == '\0')
			return mem_strdup("");
		list++;
	}
	return mem_strndup(list, strcspn(list, ","));
}

static const char *
or_empty(const ConnInfo *info, const char *keyword)
{
	const char *value = conninfo_get(info, keyword);
	return value != NULL ? value : "";
}

/* What an empty element of a list of ports means. */
static char *
default_port(void)
{
	PQconninfoOption *options = PQconninfoParse("", NULL);
	char *port = NULL;

	CHECK(options != NULL);
	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
		if (strcmp(o->keyword, "port") == 0 && o->compiled != NULL)
			port = mem_strdup(o->compiled);
	PQconninfoFree(options);
	return port != NULL ? port : mem_strdup("5432");
}

/* Asks libpq for the defaults and the password of one host. Every keyword that
 * decides is given, even if empty, so that no environment variable steps in. */
static void
resolve_host(const ConnInfo *info, size_t index, Host *out)
{
	static const char *const same[] = {"user", "dbname", "password", "passfile"};
	const char *ports = or_empty(info, "port");
	char *host = list_get(or_empty(info, "host"), index);
	char *port = list_get(ports, list_count(ports) > 1 ? index : 0);
	Buffer ask = BUFFER_INIT;

	out->hostaddr = list_get(or_empty(info, "hostaddr"), index);
	conninfo_text_put(&ask, "host", host);
	conninfo_text_put(&ask, "hostaddr", out->hostaddr);
	conninfo_text_put(&ask, "port", port);
	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		conninfo_text_put(&ask, same[i], or_empty(info, same[i]));
	if (or_empty(info, "service")[0] != '\0')
		conninfo_text_put(&ask, "service", or_empty(info, "service"));
	conninfo_text_put(&ask, "channel_binding", no_connection);

	PGconn *conn = PQconnectStart(buffer_cstr(&ask));
	CHECK(conn != NULL && PQstatus(conn) == CONNECTION_BAD);
	out->host = mem_strdup(PQhost(conn));
	out->port = PQport(conn)[0] != '\0' ? mem_strdup(PQport(conn)) : default_port();
	const char *password = PQpass(conn);
	out->password = password != NULL && password[0] != '\0' ? mem_strdup(password) : NULL;
	PQfinish(conn);
	mem_wipe(ask.data, ask.len);
	buffer_free(&ask);
	free(host);
	free(port);
	if (out->hostaddr[0] == '\0') {
		free(out->hostaddr);
		out->hostaddr = NULL;
	}
}

static void
load_hosts(ConnInfo *info)
{
	free_hosts(info);
	const char *addresses = or_empty(info, "hostaddr");
	const char *list = addresses[0] != '\0' ? addresses : or_empty(info, "host");
	Buffer display = BUFFER_INIT;

	info->host_count = list_count(list);
	info->hosts = mem_zalloc(info->host_count * sizeof(Host));
	for (size_t i = 0; i < info->host_count; i++) {
		Host *host = &info->hosts[i];
		resolve_host(info, i, host);
		bool brackets = host->host[0] != '/' && strchr(host->host, ':') != NULL;
		buffer_printf(&display, brackets ? "%s[%s]:%s" : "%s%s:%s", i > 0 ? "," : "", host->host,
		              host->port);
	}
	buffer_printf(&display, "/%s as %s", or_empty(info, "dbname"), or_empty(info, "user"));
	info->display = mem_strdup(buffer_cstr(&display));
	buffer_free(&display);
}

ConnInfo *
conninfo_parse(const char *text, Error *err)
{
	ConnInfo *info = mem_zalloc(sizeof(ConnInfo));
	Buffer rest = BUFFER_INIT;
	char *message = NULL;

	conninfo_text_split(text, &rest, take_new_keyword, info);
	PQconninfoOption *options = PQconninfoParse(buffer_cstr(&rest), &message);
	bool ok = options != NULL ? load_defaults(info, buffer_cstr(&rest), err)
	                          : conninfo_text_error(message, err);
	PQconninfoFree(options);
	if (message != NULL) {
		mem_wipe(message, strlen(message));
		PQfreemem(message);
	}
	mem_wipe(rest.data, rest.len);
	buffer_free(&rest);
	if (!ok) {
		conninfo_free(info);
		return NULL;
	}
	load_new_defaults(info);
	load_hosts(info);
	return info;
}

ConnInfo *
conninfo_copy(const ConnInfo *info)
{
	ConnInfo *copy = mem_zalloc(sizeof(ConnInfo));

	for (size_t i = 0; i < info->item_count; i++)
		set_item(copy, info->items[i].keyword, info->items[i].value, info->items[i].libpq);
	load_hosts(copy);
	return copy;
}

void
conninfo_free(ConnInfo *info)
{
	if (info == NULL)
		return;
	free_hosts(info);
	for (size_t i = 0; i < info->item_count; i++) {
		free(info->items[i].keyword);
		mem_wipe_free_cstr(info->items[i].value);
	}
	free(info->items);
	free(info);
}

const char *
conninfo_get(const ConnInfo *info, const char *keyword)
{
	const Item *item = find_item(info, keyword);
	return item != NULL ? item->value : NULL;
}

const char *
conninfo_database(const ConnInfo *info)
{
	const char *name = conninfo_get(info, "dbname");

	if (name == NULL || name[0] == '\0')
		name = conninfo_get(info, "user");
	return name != NULL ? name : "";
}

void
conninfo_set(ConnInfo *info, const char *keyword, const char *value)
{
	static const char *const deciding[] = {"host",   "hostaddr", "port",    "user",
	                                       "dbname", "password", "passfile"};

	CHECK(find_item(info, keyword) != NULL);
	set_item(info, keyword, value, true);
	for (size_t i = 0; i < sizeof(deciding) / sizeof(deciding[0]); i++)
		if (strcmp(keyword, deciding[i]) == 0) {
			load_hosts(info);
			return;
		}
}

const char *
conninfo_display(const ConnInfo *info)
{
	return info->display;
}

size_t
conninfo_host_count(const ConnInfo *info)
{
	return info->host_count;
}

ConnHost
conninfo_host(const ConnInfo *info, size_t index)
{
	CHECK(index < info->host_count);
	const Host *host = &info->hosts[index];
	return (ConnHost){host->host, host->hostaddr, host->port, host->password};
}

void
conninfo_libpq_params(const ConnInfo *info, const char ***keywords, const char ***values)
{
	size_t count = 0;

	*keywords = mem_zalloc((info->item_count + 1) * sizeof(char *));
	*values = mem_zalloc((info->item_count + 1) * sizeof(char *));
	for (size_t i = 0; i < info->item_count; i++) {
		const Item *item = &info->items[i];
		/* The service is in the other values already. */
		if (!item->libpq || item->value == NULL || strcmp(item->keyword, "service") == 0)
			continue;
		(*keywords)[count] = item->keyword;
		(*values)[count++] = item->value;
	}
}
