// A terminal chat: MILLRACE_TOKEN=… go run ./examples/chat ws://127.0.0.1:7400 general
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"

	millrace "millrace.dev/go"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: chat URL CHANNEL, with an access token in MILLRACE_TOKEN")
	}
	ctx := context.Background()
	client, err := millrace.Connect(ctx, os.Args[1], millrace.WithToken(os.Getenv("MILLRACE_TOKEN")))
	if err != nil {
		log.Fatal(err)
	}
	channel, err := client.Subscribe(ctx, os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer client.Close() // sends what is left, and ends the loop below
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); channel.Submit(ctx, lines.Bytes()) {
		}
	}()
	for message, err := range channel.Messages(ctx) {
		if err != nil {
			log.Println(err) // what did not come; the last one ends the loop
			continue
		}
		fmt.Printf("%s: %s\n", message.User, message.Text())
	}
}
