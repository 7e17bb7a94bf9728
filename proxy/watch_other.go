//go:build !linux

package proxy

import "syscall"

// watcher is Linux's: elsewhere net/http watches with a goroutine for each request.
type watcher struct{}

func newWatcher() *watcher          { return nil }
func (*watcher) watch(*client)      {}
func (*watcher) forget(*client)     {}
func (*watcher) leave()             {}
func isDrained(_ syscall.Conn) bool { return true }
