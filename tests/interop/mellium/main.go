// Two clients of mellium, one over STARTTLS and one over TLS, do what people do; see test_languages.py.
package main

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	"mellium.im/xmpp"
	"mellium.im/xmpp/blocklist"
	"mellium.im/xmpp/carbons"
	"mellium.im/xmpp/disco"
	"mellium.im/xmpp/history"
	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/muc"
	"mellium.im/xmpp/mux"
	"mellium.im/xmpp/ping"
	"mellium.im/xmpp/roster"
	"mellium.im/xmpp/stanza"
	"mellium.im/xmpp/version"
	"mellium.im/xmpp/xtime"
)

type body struct {
	stanza.Message
	Body string `xml:"body"`
}

func check(what string, err error) {
	if err != nil {
		fmt.Println("failed", what, err)
		os.Exit(1)
	}
	fmt.Println("ok", what)
}

type peer struct {
	*xmpp.Session
	heard chan string
	muc   *muc.Client
}

func login(ctx context.Context, address, port, password string, direct bool) peer {
	j := jid.MustParse(address)
	config := &tls.Config{ServerName: j.Domain().String()}
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	check("connect", err)
	features := []xmpp.StreamFeature{
		xmpp.BindResource(),
		xmpp.SASL("", password, sasl.ScramSha256Plus),
		roster.Versioning(),
	}
	var rw net.Conn = conn
	state := xmpp.SessionState(0)
	if direct {
		c := tls.Client(conn, config)
		check("handshake", c.Handshake())
		rw, state = c, xmpp.Secure
	} else {
		features = append(features, xmpp.StartTLS(config))
	}
	s, err := xmpp.NewSession(ctx, j.Domain(), j, rw, state, xmpp.NewNegotiator(func(*xmpp.Session, *xmpp.StreamConfig) xmpp.StreamConfig {
		return xmpp.StreamConfig{Features: features}
	}))
	check("session "+address, err)
	p := peer{s, make(chan string, 100), &muc.Client{}}
	h := mux.MessageHandlerFunc(func(m stanza.Message, t xmlstream.TokenReadEncoder) error {
		b := body{}
		if err := xml.NewTokenDecoder(t).Decode(&b); err != nil {
			fmt.Println("decode", err)
		}
		if b.Body != "" {
			p.heard <- m.From.String() + " " + string(m.Type) + " " + b.Body
		}
		return nil
	})
	name := xml.Name{Local: "body"}
	go func() {
		err := s.Serve(mux.New(stanza.NSClient, muc.HandleClient(p.muc), ping.Handle(),
			mux.Message(stanza.ChatMessage, name, h), mux.Message(stanza.GroupChatMessage, name, h)))
		fmt.Println("served", err)
	}()
	check("presence", s.Send(ctx, stanza.Presence{Type: stanza.AvailablePresence}.Wrap(nil)))
	return p
}

func (p peer) say(ctx context.Context, to jid.JID, kind stanza.MessageType, text string) {
	check("say", p.Encode(ctx, body{stanza.Message{To: to, Type: kind, ID: "x" + text[:2]}, text}))
}

func (p peer) hears(ctx context.Context) {
	select {
	case got := <-p.heard:
		fmt.Println("heard", got)
	case <-ctx.Done():
		check("heard", ctx.Err())
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	port, tlsPort, password := os.Args[1], os.Args[2], os.Args[3]
	romeo := login(ctx, "romeo@localhost", port, password, false)
	juliet := login(ctx, "juliet@localhost", tlsPort, password, true)
	here := jid.MustParse("localhost")
	check("ping", ping.Send(ctx, romeo.Session, here))
	check("ping peer", ping.Send(ctx, romeo.Session, juliet.LocalAddr()))
	_, err := xtime.Get(ctx, romeo.Session, here)
	check("time", err)
	v, err := version.Get(ctx, romeo.Session, here)
	check("version "+v.Name, err)
	info, err := disco.GetInfo(ctx, "", here, romeo.Session)
	check(fmt.Sprint("info ", len(info.Features)), err)
	items := disco.FetchItemsIQ(ctx, "", stanza.IQ{To: here}, romeo.Session)
	for items.Next() {
		fmt.Println("item", items.Item().JID)
	}
	check("items", items.Err())
	check("items close", items.Close())
	check("roster set", roster.Set(ctx, romeo.Session, roster.Item{JID: jid.MustParse("nurse@localhost"), Name: "Nurse", Group: []string{"Old"}}))
	r := roster.Fetch(ctx, romeo.Session)
	for r.Next() {
		fmt.Println("contact", r.Item())
	}
	check("roster", r.Err())
	r.Close()
	check("block", blocklist.Add(ctx, romeo.Session, jid.MustParse("x@y.example")))
	b := blocklist.Fetch(ctx, romeo.Session)
	for b.Next() {
		fmt.Println("blocked", b.JID())
	}
	check("blocked", b.Err())
	b.Close()
	check("carbons", carbons.Enable(ctx, romeo.Session))
	romeo.say(ctx, juliet.LocalAddr(), stanza.ChatMessage, "hé <&> 𝄞")
	juliet.hears(ctx)
	hall := jid.MustParse("hall@conference.localhost")
	nick := func(n string) jid.JID { j, _ := hall.WithResource(n); return j }
	_, err = romeo.muc.Join(ctx, nick("romeo"), romeo.Session)
	check("join", err)
	form, err := muc.GetConfig(ctx, hall, romeo.Session)
	check("config", err)
	check("set config", muc.SetConfig(ctx, hall, form, romeo.Session))
	channel, err := juliet.muc.Join(ctx, nick("juliet"), juliet.Session)
	check("join", err)
	romeo.say(ctx, hall, stanza.GroupChatMessage, "to all")
	juliet.hears(ctx)
	romeo.hears(ctx)
	result, err := history.Fetch(ctx, history.Query{Limit: 10}, romeo.LocalAddr().Bare(), romeo.Session)
	check(fmt.Sprint("archive ", result.Set.Count), err)
	check("leave", channel.Leave(ctx, "bye"))
	check("close", romeo.Close())
	check("close", juliet.Close())
}
