package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"

	"github.com/anteroom-gpu/anteroom/admission/gpu"
	"github.com/anteroom-gpu/anteroom/configs"
)

// runInit is `anteroom init`: it looks at the machine and writes a configuration.
func runInit(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("init", "", "Look at the cards and the model servers of this machine, and write a configuration for them.\n"+
		"Servers are asked by GET alone, which changes nothing in them.", stderr)
	var also targets
	fs.Var(&also, "to", "a server to ask as well, by its `[ENGINE=]URL`; may be given often")
	only := fs.Bool("only", false, "ask the servers of --to alone, not those found on this machine")
	where := newCardFlags(fs)
	file := fs.String("out", "anteroom.yaml", "write to `FILE`")
	yes := fs.Bool("yes", false, "write without a question")
	dry := fs.Bool("dry-run", false, "print it and write nothing")
	force := fs.Bool("force", false, "overwrite a file that is there")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	text, problems, err := discover(context.Background(), also, *only, where, gpu.Listeners())
	if err != nil {
		fmt.Fprintln(stderr, "anteroom init:", err)
		return 1
	}
	for _, p := range problems {
		fmt.Fprintln(stderr, p)
	}
	if *dry {
		fmt.Fprint(stdout, text)
		return 0
	}
	if !*yes && term.IsTerminal(os.Stdin.Fd()) {
		fmt.Fprintf(stdout, "%s\nWrite this to %s? [Y/n] ", text, *file)
		answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "" && answer != "y" && answer != "yes" {
			return 1
		}
	}
	if err := writeNew(*file, text, *force); err != nil {
		fmt.Fprintln(stderr, "anteroom init:", err)
		return 1
	}
	fmt.Fprintf(stdout, "wrote %s\nnext: anteroom check -c %s, then anteroom serve -c %s\n", *file, *file, *file)
	return 0
}

// discover returns a configuration for the cards and servers of this machine, and what
// check says about it. It avoids the ports in used; if used is nil, the listeners have
// their default ports.
func discover(ctx context.Context, also targets, only bool, where cardFlags, used []gpu.Listening) (text string,
	problems configs.Mistakes, err error) {
	cards, err := where.cards()
	if err != nil {
		return "", nil, err
	}
	servers := slices.Clone([]found(also))
	if !only {
		for _, f := range candidates(cards) {
			if !slices.ContainsFunc(servers, func(x found) bool { return x.url == f.url }) {
				servers = append(servers, f)
			}
		}
	}
	servers = identify(ctx, servers, cards)
	if !slices.ContainsFunc(servers, func(f found) bool { return f.name != "" }) {
		return "", nil, errors.New(none(servers))
	}
	text = draft(cards, servers, used)
	cfg, err := configs.Load(configs.Options{File: "what init writes", Text: []byte(text)})
	if mistakes, ok := errors.AsType[configs.Mistakes](err); ok {
		return text, mistakes, nil
	}
	return text, cfg.Warnings(), nil
}

// none explains why a configuration has no backend.
func none(servers []found) string {
	if len(servers) == 0 {
		return "no engine was found at the usual ports: start it first, or name it by --to URL"
	}
	text := "no engine was found"
	for i, f := range servers {
		text += when(i == 0, ": ") + when(i > 0, "; ")
		if f.err != nil {
			text += fmt.Sprintf("%s does not answer (%v): start it first", f.url, f.err)
		} else {
			text += fmt.Sprintf("%s answers, and is none of those that are known: --to %s takes it in, with a rule of its own", f.url, f.url)
		}
	}
	return text
}

// writeNew writes a new file. With force it overwrites an existing one.
func writeNew(name, text string, force bool) error {
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(name, mode, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: want another --out, or --force", name)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
