package gateway

// DocumentForTests returns the valid flavour of the document of a version below a root, as it is served; nil if nothing is served there.
func DocumentForTests(g *Gateway, root, version string) []byte {
	if root != g.config.APIRoot && g.galaxyOf(root) == "" || version != apiVersion && version != nextVersion {
		return nil
	}
	made, err := g.document.get(flavour{root: root, galaxy: g.galaxyOf(root), api: version, format: pathJSON, version: openAPI30, ids: true})
	if err != nil {
		panic(err)
	}
	return made.body
}
