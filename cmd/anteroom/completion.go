package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/anteroom-gpu/anteroom/configs"
)

// runSchema is `anteroom schema`.
func runSchema(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("schema", "", "Print the JSON schema of the configuration file, for editors:\n"+
		"anteroom schema > anteroom.schema.json, and in the file's first line\n"+
		"# yaml-language-server: $schema=anteroom.schema.json", stderr)
	if code, done := parse(fs, args, 0); done {
		return code
	}
	stdout.Write(configs.JSONSchema())
	return 0
}

// help is what a command says of itself.
type help struct {
	command
	usage, text string
	flags       []flagHelp
}

type flagHelp struct{ name, value, usage string }

// helpOf gets the help of a command, as -h prints it.
func helpOf(c command) help {
	var out bytes.Buffer
	c.run([]string{"-h"}, io.Discard, &out)
	h := help{command: c}
	for i, line := range strings.Split(out.String(), "\n") {
		name, isFlag := strings.CutPrefix(line, "  -")
		switch {
		case i == 0:
			h.usage = strings.TrimPrefix(line, "usage: ")
		case isFlag:
			name, value, _ := strings.Cut(name, " ")
			name, usage, _ := strings.Cut(name, "\t")
			h.flags = append(h.flags, flagHelp{name, value, usage})
		case len(h.flags) > 0:
			last := &h.flags[len(h.flags)-1]
			last.usage = strings.TrimSpace(last.usage + " " + strings.TrimSpace(line))
		default:
			h.text = strings.TrimSpace(h.text + "\n" + line)
		}
	}
	return h
}

func allHelp() (all []help) {
	for _, c := range commands {
		if c.name != "completion" && c.name != "man" {
			all = append(all, helpOf(c))
		}
	}
	return all
}

// runCompletion is `anteroom completion`.
func runCompletion(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("completion", "SHELL", "Print what completes commands and flags in a shell: bash, zsh or fish.\n"+
		"For bash: source <(anteroom completion bash)", stderr)
	arguments, code, done := parseMixed(fs, args, 1)
	if done {
		return code
	}
	write, known := map[string]func(io.Writer, []help){"bash": completeBash, "zsh": completeZsh, "fish": completeFish}[arguments[0]]
	if !known {
		fmt.Fprintf(stderr, "anteroom completion: %q: want bash, zsh or fish\n", arguments[0])
		return 2
	}
	write(stdout, allHelp())
	return 0
}

func completeBash(w io.Writer, all []help) {
	var names []string
	fmt.Fprint(w, "_anteroom() {\n  local word=\"${COMP_WORDS[COMP_CWORD]}\" flags=\"\"\n  case \"${COMP_WORDS[1]}\" in\n")
	for _, h := range all {
		names = append(names, h.name)
		var flags []string
		for _, f := range h.flags {
			flags = append(flags, "--"+f.name)
		}
		fmt.Fprintf(w, "    %s) flags=\"%s\" ;;\n", h.name, strings.Join(flags, " "))
	}
	fmt.Fprintf(w, "  esac\n  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    COMPREPLY=($(compgen -W \"%s\" -- \"$word\"))\n", strings.Join(names, " "))
	fmt.Fprint(w, "  elif [[ \"$word\" == -* ]]; then\n    COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n"+
		"  else\n    COMPREPLY=($(compgen -f -- \"$word\"))\n  fi\n}\ncomplete -o filenames -F _anteroom anteroom\n")
}

// completeZsh uses bash's completion through bashcompinit.
func completeZsh(w io.Writer, all []help) {
	fmt.Fprint(w, "#compdef anteroom\nautoload -U +X bashcompinit && bashcompinit\n")
	completeBash(w, all)
}

func completeFish(w io.Writer, all []help) {
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" }
	for _, h := range all {
		fmt.Fprintf(w, "complete -c anteroom -n __fish_use_subcommand -a %s -d %s\n", h.name, quote(h.does))
		for _, f := range h.flags {
			needs := ""
			if f.value != "" {
				needs = " -r"
			}
			fmt.Fprintf(w, "complete -c anteroom -n '__fish_seen_subcommand_from %s' -l %s%s -d %s\n", h.name, f.name, needs, quote(f.usage))
		}
	}
}

// runMan is `anteroom man`.
func runMan(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("man", "", "Print the manual page: anteroom man > anteroom.1", stderr)
	if code, done := parse(fs, args, 0); done {
		return code
	}
	roff := strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace
	fmt.Fprintf(stdout, ".TH ANTEROOM 1 \"\" \"anteroom %s\" \"User Commands\"\n", roff(buildVersion()))
	fmt.Fprint(stdout, ".SH NAME\nanteroom \\- admission control in front of a GPU\n.SH SYNOPSIS\n.B anteroom\n.I COMMAND\n[flags]\n"+
		".SH DESCRIPTION\nAn HTTP proxy in front of the model servers of one machine. A request is forwarded when GPU memory and slots allow "+
		"it.\n.SH COMMANDS\n")
	for _, h := range allHelp() {
		fmt.Fprintf(stdout, ".SS %s\n%s\n", roff(h.usage), roff(h.text))
		for _, f := range h.flags {
			fmt.Fprintf(stdout, ".TP\n.B \\-\\-%s", roff(f.name))
			if f.value != "" {
				fmt.Fprintf(stdout, " \\fI%s\\fR", roff(f.value))
			}
			fmt.Fprintf(stdout, "\n%s\n", roff(f.usage))
		}
	}
	fmt.Fprint(stdout, ".SH EXIT STATUS\n0 done, 1 could not be done, 2 asked wrongly.\n.SH SEE ALSO\nThe configuration file: anteroom "+
		"schema, and docs/configuration.md of the project.\n")
	return 0
}

// nearest is the command that was probably meant; empty: no command has a similar name.
func nearest(name string) string {
	var names []string
	for _, c := range commands {
		names = append(names, c.name)
	}
	return configs.Nearest(name, names)
}
