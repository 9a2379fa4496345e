package rpc

import "google.golang.org/grpc"

// Unary is what an observer does to a call.
func Unary(o *Observer) grpc.UnaryServerInterceptor { return o.unary }
