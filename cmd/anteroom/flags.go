package main

import (
	"flag"
	"os"

	"github.com/anteroom-gpu/anteroom/configs"
)

// configFlags adds the flags that name the source of a configuration. The function it
// returns reads them, and is called after fs.Parse. A flag that was not given overrides
// nothing.
func configFlags(fs *flag.FlagSet) func() configs.Options {
	file := fs.String("config", "", "read the configuration from `FILE`")
	fs.StringVar(file, "c", "", "short for --config `FILE`")
	for _, f := range configs.Flags {
		fs.String(f.Name, "", f.Usage)
	}
	return func() configs.Options {
		o := configs.Options{File: *file, Env: os.Environ(), Flags: make(map[string]string)}
		fs.Visit(func(given *flag.Flag) {
			for _, f := range configs.Flags {
				if f.Name == given.Name {
					o.Flags[f.Path] = given.Value.String()
				}
			}
		})
		return o
	}
}
