// Two clients of @xmpp/client do what people do; see test_languages.py. Arguments: modules, service, domain, password.
import path from "node:path";

const [modules, service, domain, password] = process.argv.slice(2);
const { client, xml } = await import(path.resolve(modules, "@xmpp/client/index.js"));
setTimeout(() => { console.log("failed: it takes too long"); process.exit(1); }, 20_000).unref();

// The next stanza that passes a test, from now on.
function next(who, test) {
  return new Promise((resolve) => {
    const look = (stanza) => {
      if (!test(stanza)) return;
      who.removeListener("stanza", look);
      resolve(stanza);
    };
    who.on("stanza", look);
  });
}

async function login(username) {
  const who = client({ service, domain, username, password, resource: "js" });
  who.on("error", (error) => console.log("error", error.message));
  who.reconnect.stop();
  console.log("online", String(await who.start()));
  const echo = next(who, (s) => s.is("presence") && s.attrs.from === String(who.jid));
  await who.send(xml("presence"));
  await echo;
  return who;
}

const said = (kind) => (s) => s.is("message") && s.attrs.type === kind && s.getChildText("body") !== null;
const romeo = await login("romeo");
const juliet = await login("juliet");
const roster = await romeo.iqCaller.get(xml("query", "jabber:iq:roster"));
console.log("roster", roster.getChildren("item").length);

const asked = next(juliet, (s) => s.is("presence") && s.attrs.type === "subscribe");
romeo.send(xml("presence", { to: `juliet@${domain}`, type: "subscribe" }));
await asked;
const seen = next(romeo, (s) => s.is("presence") && s.attrs.from === String(juliet.jid));
juliet.send(xml("presence", { to: `romeo@${domain}`, type: "subscribed" }));
await seen;

async function say(text) {
  const heard = next(juliet, said("chat"));
  romeo.send(xml("message", { to: String(juliet.jid), type: "chat" }, xml("body", {}, text)));
  console.log("heard", (await heard).getChildText("body"));
}
await say("<&> \u{231a}");

const room = `hall@conference.${domain}`;
for (const who of [romeo, juliet]) {
  const inside = next(who, (s) => s.is("message") && s.getChild("subject"));
  who.send(xml("presence", { to: `${room}/${who.jid.local}` }, xml("x", "http://jabber.org/protocol/muc")));
  await inside;
  const form = xml("x", { xmlns: "jabber:x:data", type: "submit" });
  if (who === romeo) await who.iqCaller.set(xml("query", "http://jabber.org/protocol/muc#owner", form), room);
}
const all = next(juliet, said("groupchat"));
romeo.send(xml("message", { to: room, type: "groupchat" }, xml("body", {}, "to all")));
console.log("room", (await all).attrs.from);

// The connection breaks, the session goes on.
juliet.reconnect.delay = 10;
juliet.reconnect.start();
const resumed = new Promise((resolve) => juliet.streamManagement.on("resumed", resolve));
juliet.socket.destroy ? juliet.socket.destroy() : juliet.socket.end();
await resumed;
console.log("resumed");
await say("again");
juliet.reconnect.stop();
await juliet.stop();
await romeo.stop();
console.log("stopped");
