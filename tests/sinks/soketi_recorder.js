// Loaded by node before soketi: writes down every event that the server accepted, at the
// moment it begins to broadcast it, which is before it answers the call. One line an event:
// its id, and the SHA-256 of its data. The file lies beside the server's configuration and is
// written without a buffer, so a kill loses nothing that was answered.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const path = require('path');

const program = fs.realpathSync(process.argv[1]);
const config = process.argv.find((word) => word.startsWith('--config=')).slice(9);
const file = fs.openSync(path.join(path.dirname(config), 'accepted'), 'a');
const { HttpHandler } = require(path.join(path.dirname(program), '../dist/http-handler.js'));

const broadcast = HttpHandler.prototype.broadcastMessage;
HttpHandler.prototype.broadcastMessage = function (message, appId) {
  const sha = crypto.createHash('sha256').update(message.data, 'utf8').digest('hex');
  fs.writeSync(file, `${JSON.parse(message.data).id} ${sha}\n`);
  return broadcast.call(this, message, appId);
};
