package gateway

// byHand adds the routes that are not grpc-gateway's.
func (g *Gateway) byHand() {
	g.watchByHand()
}
