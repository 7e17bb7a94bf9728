// Command anteroom is a proxy in front of model servers that share a GPU. It forwards a
// request when the card has memory for it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/anteroom-gpu/anteroom/internal/signals"
)

// A command's exit code is 0 if it did what was asked, 1 if it failed, 2 if it was called
// wrongly.
type command struct {
	name string
	does string
	run  func(args []string, stdout, stderr io.Writer) int
}

var commands = []command{
	{"init", "look at this machine and write a configuration", runInit},
	{"serve", "the proxy: -c FILE, or --to URL for what is there", runServe},
	{"check", "say everything that is wrong with a configuration: -c FILE", runCheck},
	{"explain", "say which rule a request would fall under, and why: -c FILE METHOD PATH", runExplain},
	{"learned", "show what was declared beside what was seen: --admin URL or --state FILE", runLearned},
	{"simulate", "play a trace against the rules in virtual time: -c FILE --trace FILE.csv", runSimulate},
	{"demo", "play the same traffic through one queue, static slots and Anteroom", runDemo},
	{"engine", "run one simulated model server", runEngine},
	{"top", "show what a running proxy does, on a screen that follows it; sort, pause and cancel", runTop},
	{"health", "say whether a running proxy is ready, by the exit code", runHealth},
	{"record", "write what a running proxy served as a trace for simulate", runRecord},
	{"version", "print the version", runVersion},
}

func init() {
	for _, v := range views {
		commands = append(commands, v.command())
	}
	for _, a := range actions {
		commands = append(commands, a.command())
	}
	commands = append(commands,
		command{"schema", "print the JSON schema of the configuration, for editors", runSchema},
		command{"completion", "print what completes commands in a shell: bash, zsh or fish", runCompletion},
		command{"man", "print the manual page", runMan})
}

func main() {
	if len(os.Args) < 2 || os.Args[1] != "serve" {
		signals.Release()
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) == 2 {
			return run([]string{args[1], "-h"}, stdout, stderr)
		}
		usage(stdout)
		return 0
	case "-version", "--version":
		return runVersion(nil, stdout, stderr)
	}
	for _, c := range commands {
		if c.name == args[0] {
			out := &remembers{Writer: stdout}
			code := c.run(args[1:], out, stderr)
			if out.err != nil && code == 0 {
				fmt.Fprintf(stderr, "anteroom %s: not all was written: %v\n", c.name, out.err)
				code = 1
			}
			return code
		}
	}
	fmt.Fprintf(stderr, "anteroom: unknown command %q", args[0])
	if meant := nearest(args[0]); meant != "" {
		fmt.Fprintf(stderr, ": want %s?", meant)
	}
	fmt.Fprint(stderr, "\n\n")
	usage(stderr)
	return 2
}

// remembers is a writer that keeps the first error.
type remembers struct {
	io.Writer
	err error
}

func (r *remembers) Write(p []byte) (int, error) {
	n, err := r.Writer.Write(p)
	if err != nil && r.err == nil {
		r.err = err
	}
	return n, err
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: anteroom COMMAND [flags]\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-11s%s\n", c.name, c.does)
	}
	fmt.Fprint(w, "\nanteroom COMMAND -h lists a command's flags.\n")
}

// newFlags makes a sub-command's flags: what they print goes to stderr.
func newFlags(command, arguments, does string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(stderr, "usage: anteroom %s [flags]", command)
		if arguments != "" {
			fmt.Fprintf(stderr, " %s", arguments)
		}
		fmt.Fprintf(stderr, "\n\n%s\n\n", does)
		fs.PrintDefaults()
	}
	return fs
}

// parse reads the flags of a command that takes wanted arguments. If done, the command is
// over, and code is its exit code.
func parse(fs *flag.FlagSet, args []string, wanted int) (code int, done bool) {
	_, code, done = parseMixed(fs, args, wanted)
	return code, done
}

// parseMixed is parse for flags and arguments in any order; after -- all are
// arguments.
func parseMixed(fs *flag.FlagSet, args []string, wanted int) (arguments []string, code int, done bool) {
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, 0, true
			}
			return nil, 2, true
		}
		flags := args[:len(args)-fs.NArg()]
		args = fs.Args()
		if len(flags) > 0 && flags[len(flags)-1] == "--" {
			arguments, args = append(arguments, args...), nil
		} else if len(args) > 0 {
			arguments, args = append(arguments, args[0]), args[1:]
		}
	}
	if len(arguments) != wanted {
		fmt.Fprintf(fs.Output(), "anteroom %s: %s: want %d\n\n", fs.Name(), counted(len(arguments), "argument", "arguments"), wanted)
		if file := strings.Join(arguments, " "); wanted == 0 && fs.Lookup("c") != nil &&
			(strings.HasSuffix(file, ".yaml") || strings.HasSuffix(file, ".yml")) {
			fmt.Fprintf(fs.Output(), "A file is named by -c: anteroom %s -c %s\n\n", fs.Name(), file)
		}
		fs.Usage()
		return nil, 2, true
	}
	return arguments, 0, false
}
