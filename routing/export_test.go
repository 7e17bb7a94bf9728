package routing

// WithoutIndex is the same table, which looks at every rule in order.
func (t *Table) WithoutIndex() *Table {
	all := &index{starts: map[string]*hosts{"": {}}}
	for i := range t.rules {
		all.groups = append(all.groups, group{from: i, to: i + 1})
		all.starts[""].any = append(all.starts[""].any, i)
	}
	return &Table{rules: t.rules, names: t.names, index: all}
}

// Groups is how many groups the index has.
func (t *Table) Groups() int { return len(t.index.groups) }
