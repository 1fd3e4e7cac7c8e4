"""RabbitMQ (3.10 and 4.x, no plugins) behind the broker interface, on aio-pika."""

from towpath.servicekit.broker.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
