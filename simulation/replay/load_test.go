package replay_test

import (
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation/replay"
	"github.com/anteroom-gpu/anteroom/simulation/replay/configured"
)

func init() {
	replay.LoadBox = func(file string) (*replay.Box, error) {
		c, err := configs.Load(configs.Options{File: file})
		if err != nil {
			return nil, err
		}
		box, mistakes := configured.Box(file, c)
		if len(mistakes) > 0 {
			return nil, mistakes
		}
		return box, nil
	}
}
