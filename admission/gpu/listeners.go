package gpu

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// listener is a TCP socket that waits for connections.
type listener struct {
	at    netip.AddrPort
	inode string
}

// listeners are those of this network namespace, as root shows them.
func listeners(root string) (all []listener) {
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(root, "net", table))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Scan() // the heading
		for lines.Scan() {
			// sl local remote state queues timer retransmits uid timeout inode
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[3] != "0A" {
				break // the kernel shows those first that listen; there may be thousands of others
			}
			if at, ok := parseAddress(fields[1]); ok {
				all = append(all, listener{at, fields[9]})
			}
		}
		f.Close()
	}
	return all
}

// parseAddress reads an address as the kernel prints it: words of the
// machine's byte order, then the port.
func parseAddress(text string) (netip.AddrPort, bool) {
	words, last, _ := strings.Cut(text, ":")
	port, err := strconv.ParseUint(last, 16, 16)
	if err != nil || len(words) != 8 && len(words) != 32 {
		return netip.AddrPort{}, false
	}
	var raw []byte
	for i := 0; i < len(words); i += 8 {
		word, err := strconv.ParseUint(words[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	address, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(address.Unmap(), uint16(port)), true
}

// here gives the addresses of this machine that a URL's host and port mean;
// none: it is another machine, or a name that only a resolver knows.
func here(hostport string) (all []netip.AddrPort) {
	host, last, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(last, 10, 16)
	if err != nil || port == 0 {
		return nil
	}
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, uint16(port)) }
	if host == "localhost" {
		return []netip.AddrPort{at(netip.AddrFrom4([4]byte{127, 0, 0, 1})), at(netip.IPv6Loopback())}
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	address = address.Unmap().WithZone("")
	if address.IsLoopback() {
		return []netip.AddrPort{at(address)}
	}
	own, _ := net.InterfaceAddrs()
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().WithZone("") == address {
			return []netip.AddrPort{at(address)}
		}
	}
	return nil
}

// behind gives the inodes of the sockets that take connections to at. A socket
// of that very address goes before one of every address, as in the kernel.
func behind(at netip.AddrPort, all []listener) (inodes []string) {
	var wide []string
	for _, l := range all {
		switch {
		case l.at == at:
			inodes = append(inodes, l.inode)
		case l.at.Port() == at.Port() && l.at.Addr().IsUnspecified() && (l.at.Addr().Is6() || at.Addr().Is4()):
			wide = append(wide, l.inode)
		}
	}
	if inodes == nil {
		return wide
	}
	return inodes
}

// holders finds the processes that have the sockets of these inodes open. It
// looks at every file of every process that it may look at, which takes
// milliseconds.
func holders(root string, inodes map[string]bool) map[string][]process {
	found := make(map[string][]process)
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		files := filepath.Join(root, e.Name(), "fd")
		open, _ := os.ReadDir(files)
		seen := make(map[string]bool)
		for _, fd := range open {
			link, _ := os.Readlink(filepath.Join(files, fd.Name()))
			inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
			if len(inode) == len(link) || !inodes[inode] || seen[inode] {
				continue
			}
			seen[inode] = true
			if p, ok := readProcess(root, pid); ok {
				found[inode] = append(found[inode], p)
			}
		}
	}
	return found
}
