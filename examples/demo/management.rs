//! What a user of the demo is to do about an error of RabbitMQ's management API.

use overdue_testkit::management::ManagementError;

use crate::Failure;

/// The error, with the remedy.
pub fn explained(error: ManagementError) -> Failure {
    let remedy = match &error {
        ManagementError::Unreachable { .. } => {
            "; it is wanted for a vhost of the demo's own (`rabbitmq-plugins enable rabbitmq_management`, and \
             OVERDUE_MANAGEMENT_URL says where it is)"
        }
        ManagementError::Refused { .. } => {
            ": the demo makes a vhost and users of its own, for which the user in AMQP_URL needs the tag `administrator` \
             (rabbitmqctl set_user_tags USER administrator)"
        }
        ManagementError::Status { .. } => "",
    };
    format!("{error}{remedy}").into()
}
