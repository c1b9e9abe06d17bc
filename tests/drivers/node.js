// node-postgres: named statements, transactions, two queries on the way at once.
// usage: node node.js ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
'use strict';
const fs = require('fs');
const { Client } = require('pg');

const ADD = `WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = $1 RETURNING id, n)
	INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
	RETURNING n, port`;

async function main(id, stop) {
	const client = new Client(); // PGHOST and the rest
	await client.connect();
	await client.query("SET app.driver = 'node'");
	const add = async () => {
		const { rows } = await client.query({ name: 'add', text: ADD, values: [id] });
		return `${rows[0].n} ${rows[0].port}`;
	};
	for (let turn = 0; !fs.existsSync(stop); turn++) {
		const done = [];
		if (turn % 3 === 0) {
			done.push(await add());
		} else if (turn % 3 === 1) {
			await client.query('BEGIN');
			done.push(await add());
			await client.query('COMMIT');
		} else {
			done.push(...(await Promise.all([add(), add()])));
		}
		for (const one of done)
			fs.writeSync(1, `ack ${one}\n`);
		await new Promise((resolve) => setTimeout(resolve, 10));
	}
	await client.end();
	fs.writeSync(1, 'done\n');
}

main(parseInt(process.argv[2], 10), process.argv[3]).catch((error) => {
	console.error(error);
	process.exit(1);
});
