package gateway

// watchByHand adds tasks/watch, tasks/{pulp_id}/watch and tasks/wait.
func (g *Gateway) watchByHand() {}
