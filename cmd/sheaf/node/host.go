package node

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sheaf/services/ingress"
)

// maxLossLines is the number of lines of LOSSES.txt that operators see; the file holds them all.
const maxLossLines = 100

// host describes this process and its machine to operators.
func (n *node) host() ingress.Host {
	h := ingress.Host{}
	h.Version, h.Revision = build()
	if n.disk != nil {
		if size, free, known := n.disk.measure(n.disk.folder); known {
			h.Disk = ingress.Disk{Size: size, Free: free, Reserve: reserveOf(size)}
		}
	}
	if n.keys != nil {
		h.Keys = n.keys.list()
	}
	if text, err := os.ReadFile(filepath.Join(n.cfg.Data, lossesName)); err == nil {
		h.Losses = strings.Split(strings.TrimSpace(string(text)), "\n")
		h.Losses = h.Losses[:min(len(h.Losses), maxLossLines)]
	}
	return h
}

// list describes the valid keys, oldest first.
func (a *apiKeys) list() []ingress.KeyInfo {
	keys := slices.SortedFunc(maps.Values(*a.keys.Load()), func(a, b APIKey) int { return a.Created.Compare(b.Created) })
	list := make([]ingress.KeyInfo, len(keys))
	for i, k := range keys {
		list[i] = ingress.NewKeyInfo(k.principal(), k.Name, k.Created, a.lastUse(k.ID))
	}
	return list
}
