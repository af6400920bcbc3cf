// Closed-loop load of unary calls from C++, so that the client's own cost stays small beside the server's.
//
//     unary_load ADDRESS METHOD CALLERS SECONDS
//
// METHOD is a full one, such as /ravel.v1.KV/Put. Each call sends {1: key, 2: 256 bytes}: that is a PutRequest of ravel and of
// etcd alike. Prints operations a second, and the 50th and 99th percentile of their latency in microseconds; exits 1 if a call fails.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kKeys = 10000;
constexpr std::size_t kValueBytes = 256;

struct Call {
  grpc::ClientContext context;
  grpc::ByteBuffer response;
  grpc::Status status;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  Clock::time_point began;
};

grpc::ByteBuffer Request(int number) {
  char key[32];
  const int size = std::snprintf(key, sizeof key, "key/%012d", number % kKeys);
  std::string message;
  message += '\x0a';
  message += static_cast<char>(size);
  message.append(key, size);
  message += '\x12';
  message += static_cast<char>(0x80 | (kValueBytes & 0x7f));
  message += static_cast<char>(kValueBytes >> 7);
  message.append(kValueBytes, 'v');
  grpc::Slice slice(message);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: unary_load ADDRESS METHOD CALLERS SECONDS\n");
    return 2;
  }
  const std::string method = argv[2];
  const int callers = std::atoi(argv[3]);
  const double seconds = std::atof(argv[4]);
  grpc::GenericStub stub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  grpc::CompletionQueue queue;
  int number = 0;
  const auto start = [&] {
    auto* call = new Call;
    call->began = Clock::now();
    call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    call->reader = stub.PrepareUnaryCall(&call->context, method, Request(number++), &queue);
    call->reader->StartCall();
    call->reader->Finish(&call->response, &call->status, call);
  };
  const auto began = Clock::now();
  const auto end = began + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (int caller = 0; caller < callers; ++caller) start();
  std::vector<double> latencies;
  int failed = 0;
  for (int under_way = callers; under_way > 0; --under_way) {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    const std::unique_ptr<Call> call(static_cast<Call*>(tag));
    if (!call->status.ok()) {
      if (!failed++) std::fprintf(stderr, "a call failed: %s\n", call->status.error_message().c_str());
    } else {
      latencies.push_back(std::chrono::duration<double, std::micro>(Clock::now() - call->began).count());
    }
    if (Clock::now() < end && failed < 100) {
      start();
      ++under_way;
    }
  }
  const double took = std::chrono::duration<double>(Clock::now() - began).count();
  std::sort(latencies.begin(), latencies.end());
  if (latencies.empty()) return 1;
  std::printf("%.1f %.0f %.0f\n", latencies.size() / took, latencies[latencies.size() / 2], latencies[latencies.size() * 99 / 100]);
  return failed ? 1 : 0;
}
