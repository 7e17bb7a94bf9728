//go:build !unix

package proxy

import (
	"errors"
	"os"
)

// again would be a second handle of an open file.
func again(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }
